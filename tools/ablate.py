"""Calls ``tree-ssm ablate``."""

import sys

from ssm_train.commands.program import main

if __name__ == "__main__":
    sys.exit(main(["ablate", *sys.argv[1:]]))
