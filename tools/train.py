"""Calls ``tree-ssm train``."""

import sys

from ssm_train.commands.program import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
