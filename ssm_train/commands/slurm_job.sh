#!/usr/bin/env bash
# The batch job of tree-ssm slurm-train, which submits it: slurm_job.sh CONFIG [arguments of tree-ssm train]
# The training ends with 75 when it was stopped and its state is saved. The job then goes back into the queue, and
# continues from that state. So it does after a process was killed, MAX_RESTARTS times.
set -uo pipefail
if [ $# -lt 1 ]; then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
fi
config=$1
shift
# A cancelled job is not queued again. Slurm signals this script and the training.
cancelled=
trap 'cancelled=1' TERM INT
# When one process ends, the others notice, save and end by themselves, with what tells an error from a loss. Slurm would
# kill them at once, and the status would be that of the kill.
# shellcheck disable=SC2086
srun --kill-on-bad-exit=0 --wait=600 --cpus-per-task "${SLURM_CPUS_PER_TASK:-1}" ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u -m ssm_train.commands train "$config" --launcher slurm --resume "$@" &
step=$!
wait $step
status=$?
while kill -0 $step 2>/dev/null; do # a signal ended the waiting, not the step
    wait $step
    status=$?
done
if [ -z "$cancelled" ]; then
    if [ $status -eq 75 ] || { [ $status -gt 128 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "${MAX_RESTARTS:-10}" ]; }; then
        echo "the step ended with $status: job $SLURM_JOB_ID goes back into the queue"
        # Slurm ends this script now, and the job keeps its number and its place in the accounts.
        scontrol requeue "$SLURM_JOB_ID" && sleep 60
    fi
fi
exit $status
