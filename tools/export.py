"""Calls ``tree-ssm export``."""

import sys

from ssm_train.commands.program import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
