"""Calls ``tree-ssm train-tokenizer``."""

import sys

from ssm_train.commands.program import main

if __name__ == "__main__":
    sys.exit(main(["train-tokenizer", *sys.argv[1:]]))
