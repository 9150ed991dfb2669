#!/usr/bin/env bash
# The batch job of tree-ssm slurm-train, which submits it: slurm_job.sh CONFIG [arguments of tree-ssm train]
# The training ends with 75 when it was stopped and its state is saved. The job then goes back into the queue, and
# continues from that state. So it does after a process was killed, MAX_RESTARTS (10) times at most. Preemption and the
# end of the job's time do not count.
set -uo pipefail
if [ $# -lt 1 ]; then
    sed -n '2,5s/^# //p' "$0" >&2
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
    "${PYTHON:-python}" -u -m ssm_train.commands train "$config" --launcher slurm --resume --or-begin "$@" &
step=$!
wait $step
status=$?
while kill -0 $step 2>/dev/null; do # a signal ended the waiting, not the step
    wait $step
    status=$?
done
# Slurm counts all restarts. Those after a kill are counted in the job's comment, behind what the user wrote there.
count_kill() {
    local comment words='' killed=0
    comment=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Comment=\(.*[^ ]\) *$/\1/p')
    if [[ $comment =~ ^(.*)killed\ ([0-9]+)\ times$ ]]; then
        words=${BASH_REMATCH[1]} killed=${BASH_REMATCH[2]}
    elif [ -n "$comment" ]; then
        words="$comment; "
    fi
    if [ "$killed" -ge "${MAX_RESTARTS:-10}" ]; then
        echo "the step ended with $status: job $SLURM_JOB_ID was started again after $killed kills, and ends now"
        return 1
    fi
    scontrol update "JobId=$SLURM_JOB_ID" "Comment=${words}killed $((killed + 1)) times"
}
if [ -z "$cancelled" ]; then
    if [ $status -eq 75 ] || { [ $status -gt 128 ] && count_kill; }; then
        echo "the step ended with $status: job $SLURM_JOB_ID goes back into the queue"
        # Slurm ends this script now, and the job keeps its number and its place in the accounts.
        scontrol requeue "$SLURM_JOB_ID" && sleep 60
    fi
fi
exit $status
