"""Calls ``tree-ssm analyse visualize``."""

import sys

from ssm_train.apis import cli
from ssm_train.commands.visualize import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
