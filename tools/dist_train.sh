#!/usr/bin/env bash
# Trains in several processes of one machine or more, one per GPU (or by gloo on CPUs where there is no GPU):
#   tools/dist_train.sh CONFIG PROCESSES [arguments of tools/train.py]
# A signal (TERM, INT, HUP, USR1, USR2) saves the state and ends all processes with status 75; --resume goes on.
# On several machines run it on each with NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT set.
set -euo pipefail
if [ $# -lt 2 ]; then
    sed -n '2,5s/^# //p' "$0" >&2
    exit 2
fi
config=$1 processes=$2
shift 2
# Each process gets its share of the cores; torchrun would give it one, whatever the machine has.
cores=$(getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(((cores + processes - 1) / processes))}"
exec "${PYTHON:-python}" -m ssm_train.apis.torchrun --nnodes "${NNODES:-1}" --node-rank "${NODE_RANK:-0}" \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${MASTER_PORT:-29500}" --nproc-per-node "$processes" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"
