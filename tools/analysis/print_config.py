"""Calls ``tree-ssm analyse print-config``."""

import sys

from ssm_train.commands.program import main

if __name__ == "__main__":
    sys.exit(main(["analyse", "print-config", *sys.argv[1:]]))
