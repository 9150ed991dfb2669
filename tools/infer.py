"""Calls ``tree-ssm infer``."""

import sys

from ssm_train.commands.program import main

if __name__ == "__main__":
    sys.exit(main(["infer", *sys.argv[1:]]))
