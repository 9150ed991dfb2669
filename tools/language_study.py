"""Calls ``tree-ssm language-study``."""

import sys

from ssm_train.commands.program import main

if __name__ == "__main__":
    sys.exit(main(["language-study", *sys.argv[1:]]))
