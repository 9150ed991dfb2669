"""``python -m ssm_train.commands`` is ``tree-ssm`` with an interpreter of one's choice."""

import sys

from ssm_train.commands.program import main

sys.exit(main())
