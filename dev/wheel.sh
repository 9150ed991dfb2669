#!/usr/bin/env bash
# Builds the wheel that PyPI takes, and shows which Linux it needs: dev/wheel.sh VENV FOLDER
# The library has kernels for the GPUs that setup.py names. NO_CUDA=1 leaves them out. The wheel takes torch's libraries
# from the torch that it is installed beside, so auditwheel does not put copies of them into it.
set -euo pipefail
bin=$1/bin folder=$2
[ -n "${NO_CUDA:-}" ] || export FORCE_CUDA=1
rm -rf build/lib.* build/bdist.* build/wheel # a wheel would have the files of an older build too
mkdir -p build/wheel "$folder"
echo "building the wheel; the whole output goes to build/wheel/build.log"
if ! "$bin/python" -m pip wheel --verbose --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir build/wheel . \
    >build/wheel/build.log 2>&1; then
    tail -n 40 build/wheel/build.log >&2
    exit 1
fi
PATH=$PWD/$bin:$PATH auditwheel repair --only-plat --wheel-dir "$folder" \
    --exclude libtorch.so --exclude libtorch_cpu.so --exclude libc10.so build/wheel/*.whl
