"""Calls ``tree-ssm merge-adapters``."""

import sys

from ssm_train.apis import cli
from ssm_train.commands.merge_adapters import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
