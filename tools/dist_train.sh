#!/usr/bin/env bash
# Calls tree-ssm dist-train: tools/dist_train.sh CONFIG PROCESSES [arguments of tree-ssm train]
set -euo pipefail
# shellcheck source=tools/environment.sh
. "$(dirname "$0")/environment.sh"
exec "$python" -m ssm_train.commands dist-train "$@"
