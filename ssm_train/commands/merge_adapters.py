"""Makes a folder of transformers of a training checkpoint: tree-ssm merge-adapters CONFIG CKPT FOLDER.

LoRA adapters are added to the weights. ``AutoModelForCausalLM.from_pretrained(FOLDER)`` reads the result once
``tree_ssm.language`` is imported.
"""

import argparse


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="tree-ssm merge-adapters", description="Merge adapters into plain weights.", allow_abbrev=False
    )
    parser.add_argument("config", help="the config it was trained with")
    parser.add_argument("checkpoint", help="a .pth file of tree-ssm train")
    parser.add_argument("folder", help="where weights, config and tokenizer go")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change the config")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Merge and write."""
    args = parse_arguments(arguments)
    # Imported after parsing so that --help stays fast, and the first before the others so that a typo is found fast.
    from ssm_train.runtime.early_check import check_early

    check_early(args.config, args.cfg_options)
    from ssm_train.apis.merge import merge_adapters
    from ssm_train.runtime.config import load_config

    merge_adapters(load_config(args.config, args.cfg_options), args.checkpoint, args.folder)
    print(f"written to {args.folder}")
