"""Calls ``tree-ssm prepare-data``."""

import sys

from ssm_train.commands.program import main

if __name__ == "__main__":
    sys.exit(main(["prepare-data", *sys.argv[1:]]))
