#!/bin/sh
# scripts/setup.sh LOCK: make .venv hold what requirements/LOCK.txt lists, or find that it does.
# uv installs it where there is one, else pip. PYTHON= names the interpreter for a new .venv.
set -eu
unset CDPATH PYTHONHOME PYTHONPATH VIRTUAL_ENV
cd -- "$(dirname -- "$0")/.."
lock=requirements/$1.txt

refuse() {
    echo "setup: $1." >&2
    exit 1
}

# Settings that say where packages come from count; those that change what goes where do not.
for name in $(env | sed -nE 's/^((PIP|UV)_[A-Z_]+)=.*/\1/p'); do
    case $name in
    *INDEX* | *FIND_LINKS | *CONFIG* | *CERT* | *TLS* | *HOST* | *PROXY* | *KEYRING* | *TIMEOUT | *RETRIES | *CACHE* | *_DIR) ;;
    *) unset "$name" ;;
    esac
done
export PIP_USER=0 # a pip.conf may say otherwise

uv=
if uv --version >/dev/null 2>&1; then uv=uv; fi

version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

new_enough() {
    case $1 in 3.1[1-9] | 3.[2-9][0-9]) ;; *) return 1 ;; esac
}

# .venv/installed is written last. It holds the folder that .venv was made in, then the lock.
receipt() {
    pwd
    cat "requirements/$1.txt"
}

holds() {
    receipt "$1" 2>/dev/null | cmp -s - .venv/installed
}

usable() {
    [ "$(head -n 1 .venv/installed 2>/dev/null)" = "$(pwd)" ] && new_enough "$(version_of .venv/bin/python)"
}

choose_python() {
    old=
    if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; fi
    for candidate; do
        version=$(version_of "$candidate") || continue # a pyenv shim can be there and not run
        if new_enough "$version"; then
            # The candidate itself may live in the .venv that is about to be replaced.
            python=$("$candidate" -c 'import sys; print(sys._base_executable)')
            return
        fi
        old="$candidate is Python $version, which is too old"
    done
    how="install Python 3.11 or newer (Debian, Ubuntu: sudo apt install python3 python3-venv, or python3.12 python3.12-venv where python3 is older; macOS: brew install python)"
    if [ -n "${PYTHON:-}" ]; then refuse "PYTHON=$PYTHON is not a Python 3.11 or newer that runs; leave it out, or $how"; fi
    refuse "${old:-no Python was found}; $how"
}

make_venv() {
    rm -rf .venv
    if [ -n "$uv" ]; then
        run uv venv --no-project --python "$python" .venv
    elif "$python" -c 'import ensurepip' 2>/dev/null; then
        run "$python" -m venv .venv
    else
        refuse "Python $version came without venv; install it (Debian, Ubuntu: sudo apt install python$version-venv)"
    fi
}

install() {
    if [ -n "$uv" ]; then
        run uv pip install --python .venv/bin/python "$@"
    else
        run .venv/bin/python -m pip install --disable-pip-version-check --no-input "$@"
    fi
}

# Shows a tool's output only when it fails, and says the usual cause in one sentence.
run() {
    if output=$("$@" 2>&1); then return; fi
    case $output in
    *NewConnectionError* | *NameResolutionError* | *ProxyError* | *ConnectTimeout* | *"error sending request"* | *"Failed to fetch"*)
        refuse "the package index could not be reached; check the network or the proxy and run this again"
        ;;
    esac
    echo "$output" >&2
    refuse "$lock could not be installed, for the reason above"
}

if ! usable; then
    choose_python python3 python3.14 python3.13 python3.12 python3.11 python \
        "$(${uv:-false} python find --no-project '>=3.11' 2>/dev/null)"
    make_venv
elif holds "$1" || holds all; then
    exit
fi
echo "Installing $lock into .venv with ${uv:-pip}. The next run finds it there."
rm -f .venv/installed
install --require-hashes --only-binary :all: ${uv:+--compile-bytecode} -r "$lock"
install --no-deps --no-build-isolation -e .
receipt "$1" >.venv/installed
