#!/usr/bin/env bash
# Calls tree-ssm dist-test: tools/dist_test.sh CONFIG CKPT PROCESSES [arguments of tree-ssm test]
set -euo pipefail
# shellcheck source=tools/environment.sh
. "$(dirname "$0")/environment.sh"
exec "$python" -m ssm_train.commands dist-test "$@"
