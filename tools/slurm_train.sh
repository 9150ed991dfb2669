#!/usr/bin/env bash
# Submits a training to Slurm as a batch job that saves itself before its time ends and resumes itself:
#   [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=10] [SBATCH_ARGS="..."] [SRUN_ARGS="..."] tools/slurm_train.sh PARTITION CONFIG [arguments of tools/train.py]
# One process per GPU; GRES= (empty) asks for no GPU and trains GPUS processes on CPUs. tools/slurm_job.sh is the job.
set -euo pipefail
if [ $# -lt 2 ]; then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
fi
partition=$1 config=$2
shift 2
for argument in "$@"; do
    case $argument in
    --resume | --resume=* | --overwrite | --fresh)
        echo "error: a job resumes itself and takes no $argument: name another --work-dir for a new run, or copy the" \
            "checkpoint to go on from into the work folder" >&2
        exit 2
        ;;
    esac
done
tools=$(cd "$(dirname "$0")" && pwd)
gpus=${GPUS:-8} per_node=${GPUS_PER_NODE:-8}
[ "$gpus" -lt "$per_node" ] && per_node=$gpus
gres=${GRES-gpu:$per_node}
# SBATCH_ARGS and SRUN_ARGS are lists of words on purpose. Slurm's own SBATCH_... variables work too.
# shellcheck disable=SC2086
SRUN_ARGS="${SRUN_ARGS:-}" PYTHON="${PYTHON:-python}" exec sbatch --partition "$partition" \
    --job-name "$(basename "$config" .py)" --ntasks "$gpus" --ntasks-per-node "$per_node" ${gres:+--gres "$gres"} \
    --cpus-per-task "${CPUS_PER_TASK:-10}" --requeue --open-mode append --signal "USR1@${SECONDS_TO_SAVE:-120}" \
    ${SBATCH_ARGS:-} "$tools/slurm_job.sh" "$tools" "$config" "$@"
