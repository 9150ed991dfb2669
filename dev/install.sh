#!/usr/bin/env bash
# Makes an environment with exact packages, and shows how far it is: dev/install.sh VENV LIST [--all]
# dev/packages.py says what of the list is left out without --all. uv installs in a third of pip's time. Where it cannot
# be had, or reaches no index (it does not read pip's settings), pip installs. Compiled bytecode halves the time that
# every command takes to start.
set -euo pipefail
venv=$1 list=$2 python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo 'Python 3.10 or newer is needed; name one with: make PYTHON=python3.12' >&2
    exit 1
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
python=$venv/bin/python
wanted=$(mktemp)
trap 'rm -f "$wanted"' EXIT
"$python" "$(dirname "$0")/packages.py" "$list" "${@:3}" >"$wanted"
echo "installing $(wc -l <"$wanted") packages of $list into $venv"
if "$python" -m pip install --quiet --disable-pip-version-check "$(grep '^uv==' requirements/uv.txt)" &&
    "$python" -m uv pip install --python "$python" --no-deps --compile-bytecode -r "$wanted"; then
    exit 0
fi
echo "uv does not reach them, so pip installs them; this takes longer" >&2
"$python" -m pip install --progress-bar on --disable-pip-version-check --no-deps -r "$wanted"
