"""Calls ``tree-ssm test``."""

import sys

from ssm_train.commands.program import main

if __name__ == "__main__":
    sys.exit(main(["test", *sys.argv[1:]]))
