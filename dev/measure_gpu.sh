#!/usr/bin/env bash
# Measures anew what docs/results.md, docs/performance.md and docs/study.md say of a GPU: dev/measure_gpu.sh FOLDER PART...
#   step          compiled steps of all networks beside timm's, with the time of every kernel
#   sides         time over the side of the image, beside cross scans; for SIDES if they are set
#   sizes         time from the smallest network to the largest
#   loop:FAMILY   a family's training on JPEG files beside its bare step; on GPUS of them if it is set
#   loading       images a second of a core, and of all
#   start         seconds to the first iteration
#   detection     Mask R-CNN beside mmdet's Swin-T
#   segmentation  UPerNet beside mmseg's Swin-T
#   study:NAME    configs/studies/NAME.yaml, whose data are in place; RUNS at a time (15 if it is not set), and in mixed
#                 precision if AMP is set
# Parts follow each other. A part first compiles its networks side by side into torch's cache, which is not measured. Each
# writes its figures and a log into FOLDER as they come. PYTHON names the interpreter. MODES chooses infer or train alone.
set -uo pipefail
if [ $# -lt 2 ]; then
    sed -n '2,15s/^# //p' "$0" >&2
    exit 2
fi
cd "$(dirname "$0")/.." || exit
mkdir -p "$1"
folder=$(cd "$1" && pwd) python=${PYTHON:-python} tools=tools/benchmarks
shift
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$folder/cache}
models=(quadmamba_small mambatree_tiny swin_tiny_patch4_window7_224 convnext_tiny)
sizes=(quadmamba_{lite,tiny,small,base} mambatree_{lite,tiny,small,base} swin_{tiny,small,base}_patch4_window7_224)
read -ra sides <<<"${SIDES:-224 448 672 1024}"
read -ra modes <<<"${MODES:-infer train}"

# `time_models NAME OPTION...` measures inference and training. Every model is compiled by a process of its own before.
time_models() {
    local name=$1 mode model
    shift
    for mode in "${modes[@]}"; do
        for model in "${timed[@]}"; do
            "$python" $tools/throughput.py --compile --mode $mode --models "$model" "$@" --rounds 2 --steps 1 \
                >"$folder/$name.$mode.$model.log" 2>&1 &
        done
        wait # for each mode, since all of them would not fit into the memory
    done
    for mode in "${modes[@]}"; do
        "$python" $tools/throughput.py --compile --mode $mode --models "${timed[@]}" "$@" \
            --json "$folder/$name.$mode.json" "${more[@]/MODE/$mode}" || return
    done
}

files() {
    [ -d "$folder/imagenet-like/train" ] || "$python" $tools/imagenet_files.py "$folder/imagenet-like" --train-count 51200
}

part_step() {
    local timed=("${models[@]}") more=(--profile "$folder/step.MODE.txt")
    time_models step
}

part_sides() {
    local timed=("${models[@]}") more=(--plot "$folder/sides.MODE.svg")
    time_models sides --cross --size "${sides[@]}"
}

part_sizes() {
    local timed=("${sizes[@]}") more=()
    time_models sizes
}

# `loop FAMILY` runs a short training before the long one.
loop() {
    files || return
    local options=(--model "$1" --data "$folder/imagenet-like" --processes "${GPUS:-1}")
    "$python" $tools/loop.py "${options[@]}" --iterations 40 >"$folder/loop.$1.log" 2>&1
    "$python" $tools/loop.py "${options[@]}" --json "$folder/loop.$1.json"
}

part_loading() {
    files && "$python" $tools/loading.py "$folder/imagenet-like" --processes 12 --json "$folder/loading.json"
}

part_start() {
    "$python" $tools/first_iteration.py configs/mambatree/mambatree-tiny_synthetic.py --amp
}

dense() {
    local model options=(--task "$1" --folder "$folder/dense")
    for model in mambatree quadmamba; do
        "$python" $tools/dense.py "${options[@]}" --models $model --iterations 2 --warm-up 25 \
            >"$folder/$1.$model.log" 2>&1 &
    done
    wait
    "$python" $tools/dense.py "${options[@]}" --json "$folder/$1.json"
}

part_detection() { dense detection; }
part_segmentation() { dense segmentation; }

# `study NAME` needs MPS. Without it, processes that share a GPU take turns.
study() {
    local file=configs/studies/$1.yaml work=$folder/study_$1 ended
    export CUDA_MPS_PIPE_DIRECTORY=$folder/mps CUDA_MPS_LOG_DIRECTORY=$folder/mps
    mkdir -p "$folder/mps"
    nvidia-cuda-mps-control -d || unset CUDA_MPS_PIPE_DIRECTORY
    "$python" -m ssm_train.commands ablate "$file" --work-dir "$work" --at-once "${RUNS:-15}" ${AMP:+--amp}
    ended=$?
    [ -z "${CUDA_MPS_PIPE_DIRECTORY:-}" ] || echo quit | nvidia-cuda-mps-control
    return $ended
}

failed=0
for part in "$@"; do
    case $part in
    step | sides | sizes | loading | start | detection | segmentation) run=("part_$part") ;;
    loop:*) run=(loop "${part#loop:}") ;;
    study:*) run=(study "${part#study:}") ;;
    *)
        echo "there is no part $part" >&2
        exit 2
        ;;
    esac
    begin=$SECONDS
    "${run[@]}" 2>&1 | tee "$folder/${part/:/_}.log"
    status=${PIPESTATUS[0]}
    [ $status -eq 0 ] || failed=1
    echo "$part ended with $status after $((SECONDS - begin)) s"
done
exit $failed
