"""Calls ``tree-ssm infer``."""

import sys

from ssm_train.apis import cli
from ssm_train.commands.infer import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
