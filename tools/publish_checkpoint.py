"""Calls ``tree-ssm publish``."""

import sys

from ssm_train.commands.program import main

if __name__ == "__main__":
    sys.exit(main(["publish", *sys.argv[1:]]))
