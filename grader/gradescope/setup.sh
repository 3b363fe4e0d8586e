#!/bin/sh
# Gradescope runs this once, when it builds the image.
set -eu
apt-get update -qq
apt-get install -y -qq --no-install-recommends make curl python3 python3-venv
cd "${AUTOGRADER:-/autograder}/source/course"
sh scripts/setup.sh all
