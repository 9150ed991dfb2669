"""Calls ``tree-ssm analyse visualize``."""

import sys

from ssm_train.commands.program import main

if __name__ == "__main__":
    sys.exit(main(["analyse", "visualize", *sys.argv[1:]]))
