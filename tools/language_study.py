"""Calls ``tree-ssm language-study``."""

import sys

from ssm_train.apis import cli
from ssm_train.commands.language_study import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
