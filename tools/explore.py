"""Calls ``tree-ssm explore``."""

import sys

from ssm_train.commands.program import main

if __name__ == "__main__":
    sys.exit(main(["explore", *sys.argv[1:]]))
