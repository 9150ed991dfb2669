"""Calls ``tree-ssm convert``."""

import sys

from ssm_train.apis import cli
from ssm_train.commands.convert_checkpoint import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
