#!/usr/bin/env bash
# Trains under Slurm, one process per GPU:
#   [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=10] [SRUN_ARGS="..."] tools/slurm_train.sh PARTITION CONFIG [arguments of tools/train.py]
# --resume is given, so that a requeued job goes on where it was.
set -euo pipefail
if [ $# -lt 2 ]; then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
fi
partition=$1 config=$2
shift 2
gpus=${GPUS:-8} per_node=${GPUS_PER_NODE:-8}
[ "$gpus" -lt "$per_node" ] && per_node=$gpus
# SRUN_ARGS is a list of words on purpose.
# shellcheck disable=SC2086
exec srun --partition "$partition" --job-name "$(basename "$config" .py)" --ntasks "$gpus" \
    --ntasks-per-node "$per_node" --gres "gpu:$per_node" --cpus-per-task "${CPUS_PER_TASK:-10}" \
    --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$config" --launcher slurm --resume "$@"
