"""Calls ``tree-ssm analyse browse-dataset``."""

import sys

from ssm_train.apis import cli
from ssm_train.commands.browse_dataset import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
