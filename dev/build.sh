#!/usr/bin/env bash
# Compiles csrc and installs the repository into an environment, and shows the files as they are compiled:
#   dev/build.sh VENV
# The whole output is in build/build.log. setup.py has the variables that change what is compiled.
set -euo pipefail
mkdir -p build
log=build/build.log
echo "compiling csrc; the whole output goes to $log"
if ! "$1/bin/python" -m pip install --verbose --disable-pip-version-check --no-deps --no-build-isolation --editable . 2>&1 |
    tee "$log" |
    { grep --line-buffered -oE '^ *\[[0-9]+/[0-9]+\].* -c [^ ]+|^ *setup\.py: .*' || true; } |
    sed -uE 's/^ *(\[[0-9]+\/[0-9]+\]).* -c (.*\/)?(csrc\/.*)/\1 \3/'; then
    tail -n 40 "$log" >&2
    exit 1
fi
