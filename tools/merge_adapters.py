"""Calls ``tree-ssm merge-adapters``."""

import sys

from ssm_train.commands.program import main

if __name__ == "__main__":
    sys.exit(main(["merge-adapters", *sys.argv[1:]]))
