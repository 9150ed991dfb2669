"""Calls ``tree-ssm convert``."""

import sys

from ssm_train.commands.program import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
