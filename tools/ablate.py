"""Calls ``tree-ssm ablate``."""

import sys

from ssm_train.apis import cli
from ssm_train.commands.ablate import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
