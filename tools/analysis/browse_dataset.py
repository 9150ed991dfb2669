"""Calls ``tree-ssm analyse browse-dataset``."""

import sys

from ssm_train.commands.program import main

if __name__ == "__main__":
    sys.exit(main(["analyse", "browse-dataset", *sys.argv[1:]]))
