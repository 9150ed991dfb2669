"""Calls ``tree-ssm analyse print-config``."""

import sys

from ssm_train.apis import cli
from ssm_train.commands.print_config import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
