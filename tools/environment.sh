# Sets `python` to the interpreter of the environment: $PYTHON, or that of the active environment, or that of `make setup`.
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -n "${PYTHON:-}" ]; then
    python=$PYTHON
elif [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x "$repository/.venv/bin/python" ]; then
    python=$repository/.venv/bin/python
else
    python=$(command -v python || command -v python3)
fi
