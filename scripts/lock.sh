#!/bin/sh
# scripts/lock.sh: write requirements/*.txt anew. The small locks take their versions from the big one.
set -eu
cd -- "$(dirname -- "$0")/.."
if ! uv --version >/dev/null 2>&1; then
    echo "lock: uv chooses the versions, and it is not here; install it first." >&2
    exit 1
fi

compile() {
    uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
        --custom-compile-command "make lock" --group build "$@" pyproject.toml
}

# Nobody should need a compiler: every package has to have a wheel wherever the course runs.
has_wheels() {
    uv pip install --quiet --dry-run --target "$nowhere" --require-hashes --only-binary :all: \
        --python-version "$1" --python-platform "$2" -r requirements/all.txt
}

nowhere=$(mktemp -d)
trap 'rm -rf "$nowhere"' EXIT
compile --all-extras --output-file requirements/all.txt
for track in medium advanced; do
    compile --extra $track --constraint requirements/all.txt --output-file requirements/$track.txt
done
for version in 3.11 3.12 3.13 3.14; do
    for platform in x86_64-manylinux_2_28 aarch64-manylinux_2_28 x86_64-apple-darwin aarch64-apple-darwin; do
        has_wheels $version $platform
    done
done
