#!/bin/sh
# scripts/doctor.sh: find any Python from 3.8 on, and let doctor.py look at this computer with it. Nothing
# of the course has to be installed, and a Python that is too old for the course can still say so.
set -eu
unset CDPATH PYTHONHOME PYTHONPATH
cd -- "$(dirname -- "$0")/.."

for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 python .venv/bin/python \
    "$(uv python find --no-project '>=3.11' 2>/dev/null)"; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null; then
        exec "$candidate" -I -B scripts/doctor.py
    fi
done
cat <<END
WRONG  Python      none was found, or only ones older than 3.8
       to mend it: install Python 3.11 or newer (Debian, Ubuntu: sudo apt install python3 python3-venv; macOS: brew
       install python), and run this again: without Python it cannot look further
END
exit 1
