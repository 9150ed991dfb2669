"""Calls ``tree-ssm prepare-data``."""

import sys

from ssm_train.apis import cli
from ssm_train.commands.prepare_data import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
