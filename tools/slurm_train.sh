#!/usr/bin/env bash
# Calls tree-ssm slurm-train: tools/slurm_train.sh PARTITION CONFIG [arguments of tree-ssm train]
set -euo pipefail
# shellcheck source=tools/environment.sh
. "$(dirname "$0")/environment.sh"
exec "$python" -m ssm_train.commands slurm-train "$@"
