"""Calls ``tree-ssm analyse cost``."""

import sys

from ssm_train.commands.program import main

if __name__ == "__main__":
    sys.exit(main(["analyse", "cost", *sys.argv[1:]]))
