#!/usr/bin/env bash
# Tests a wheel under several releases of torch, without a compiler and without the sources:
#   dev/try_wheel.sh WHEEL RELEASE...    such as  dev/try_wheel.sh dist/*.whl 2.10.0 2.11.0
# Each release gets an environment of its own in build/wheel (5 GB), and the tests of the operators run there.
set -euo pipefail
wheel=$(realpath "$1")
root=$(realpath "$(dirname "$0")/..")
python=${PYTHON:-python3}
export OMP_NUM_THREADS=1
for release in "${@:2}"; do
    folder=$root/build/wheel/torch-$release
    [ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "torch==$release" torchvision timm \
        pytest pytest-xdist networkx scipy onnx onnxscript onnxruntime
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$wheel"
    # A copy of the tests alone: beside the sources, Python would import these.
    copy=$(mktemp -d)
    cp -r "$root/tests" "$root/pyproject.toml" "$copy"
    (cd "$copy" && "$folder/bin/python" -c \
        'import torch; from ssm_core import _ext; print("torch", torch.__version__, _ext.build_info() if _ext.load() else "no library")')
    (cd "$copy" && "$folder/bin/pytest" --numprocesses 2 --dist loadfile tests/ops)
    rm -rf "$copy"
done
