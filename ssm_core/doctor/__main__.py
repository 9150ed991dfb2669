"""The command ``python -m ssm_core.doctor``."""

import sys

from . import main

sys.exit(main())
