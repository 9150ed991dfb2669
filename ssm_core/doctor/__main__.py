"""The command ``python -m ssm_core.doctor``."""

import sys

from .command_line import main

sys.exit(main())
