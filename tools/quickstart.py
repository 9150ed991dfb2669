"""Calls ``tree-ssm quickstart``."""

import sys

from ssm_train.commands.program import main

if __name__ == "__main__":
    sys.exit(main(["quickstart", *sys.argv[1:]]))
