#!/usr/bin/env bash
# What only a GPU can show, for whoever changes a kernel or a host: dev/check_gpu.sh FOLDER STAGE...
#   native     builds the library for this GPU in a copy of the repository, and runs all GPU tests with it
#   ampere     the same with a library for 8.0 and PTX alone, which the driver translates
#   calls      hostile calls of all operators (tests/fuzz_operators.py), with the library of `native`
#   sanitizer  fewer of them, and garbage schedules, under compute-sanitizer
# Builds run side by side, and tests do. Every stage writes a log into FOLDER, and this
# script ends with a line for each. PYTHON names the interpreter; its packages are those of the repository's tests.
set -uo pipefail
if [ $# -lt 2 ]; then
    sed -n '2,8s/^# //p' "$0" >&2
    exit 2
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd) python=${PYTHON:-python} root=$(cd "$(dirname "$0")/.." && pwd)
shift

# `build NAME ARCHITECTURES` builds a copy, so that two libraries can exist.
build() {
    mkdir -p "$folder/$1" &&
        tar -C "$root" --exclude=./.git --exclude=./.venv --exclude=./build --exclude=./work_dirs --exclude='*.so' -c . |
        tar -x -C "$folder/$1" &&
        cd "$folder/$1" && TORCH_CUDA_ARCH_LIST=$2 MAX_JOBS=${MAX_JOBS:-8} "$python" setup.py build_ext --inplace
}

tests() { # tests NAME
    cd "$folder/$1" || return
    # shellcheck disable=SC2046
    PYTHONPATH=$PWD "$python" -m pytest -v -m gpu -n 8 --dist loadfile -p no:cacheprovider -W ignore -r fEs \
        --junitxml "$folder/$1.xml" $(grep -rlE 'mark\.gpu' tests --include='*.py')
}

calls() {
    cd "$folder/native" || return
    PYTHONPATH=$PWD "$python" tests/fuzz_operators.py --device cuda --calls "${CALLS:-1000}" --seed 1 --processes 4 \
        --no-large --seconds 60
}

sanitizer() {
    cd "$folder/native" || return
    # Without torch's cache of memory, every tensor is an allocation whose bounds the tool knows.
    export PYTORCH_NO_CUDA_MEMORY_CACHING=1 PYTHONPATH=$PWD
    local memcheck=(compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 9)
    "${memcheck[@]}" "$python" tests/fuzz_operators.py --device cuda --processes 0 --no-reference --no-large --trace \
        --calls "${CALLS:-1000}" --seed 1 &&
        "${memcheck[@]}" "$python" -m pytest -q -m gpu -p no:cacheprovider tests/ops/test_hostile_calls_gpu.py \
            -k 'schedule or permutations or anywhere'
}

failed=$folder/failed
rm -f "$failed"
stage() { # stage NAME COMMAND...
    local name=$1
    shift
    "$@" >"$folder/$name.log" 2>&1
    local status=$?
    [ $status -eq 0 ] || echo "$name" >>"$failed"
    echo "$name ended with $status: $(tail -1 "$folder/$name.log")"
}
capability=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())') || exit 1

for name in "$@"; do
    case $name in
    native) stage native.build build native "$capability" & ;;
    ampere) stage ampere.build build ampere 8.0+PTX & ;;
    calls | sanitizer) ;;
    *)
        echo "there is no stage $name" >&2
        exit 2
        ;;
    esac
done
wait
for name in "$@"; do
    case $name in
    native | ampere) stage "$name" tests "$name" & ;;
    calls) stage calls calls & ;;
    esac
done
wait
for name in "$@"; do [ "$name" = sanitizer ] && stage sanitizer sanitizer; done
[ ! -e "$failed" ]
