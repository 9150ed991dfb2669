"""Makes a checkpoint to publish: tree-ssm publish CKPT [--out DIR] [--half] [--hub DIR --config CONFIG].

The published file has the weights and the meta data, but no optimiser state, schedules or logs. The first eight digits
of its SHA-256 are in its name, as in OpenMMLab's: torch.hub.load_state_dict_from_url(..., check_hash=True) checks them.
--half writes float16 to a safetensors file instead, which all commands here read like a .pth file.
--hub also writes the network (a detector's or segmentor's backbone) as a folder for the Hugging Face Hub.
"""

import argparse
from pathlib import Path


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="tree-ssm publish", description="Make a checkpoint ready to publish.", allow_abbrev=False
    )
    parser.add_argument("checkpoint", help="a checkpoint of tree-ssm train, convert or publish, or its address")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the file goes (default: beside the checkpoint, or here)"
    )
    parser.add_argument(
        "--name",
        help="the file's name before the digits, and the card's title (default: the checkpoint's, the config's)",
    )
    parser.add_argument("--half", action="store_true", help="write float16 in a .safetensors file, half the size")
    parser.add_argument("--hub", type=Path, metavar="DIR", help="also write a folder for the Hugging Face Hub")
    parser.add_argument("--config", help="the config it was trained with, for --hub")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change the config")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Strip, name by the contents, and write the folder if asked to."""
    args = parse_arguments(arguments)
    # Imported after parsing so that --help stays fast.
    from ssm_train.apis import publish

    cfg = publish.config_for_hub(args.hub, args.config, args.cfg_options)
    if cfg is None:
        published = publish.publish_checkpoint(args.checkpoint, args.out, args.name, args.half)
    else:
        published = publish.publish_with_hub_folder(args.checkpoint, cfg, args.hub, args.out, args.name, args.half)
    print(f"{published.path}: {published.before / 2**20:.1f} MiB before, {published.after / 2**20:.1f} MiB now")
    if cfg is not None:
        print(f"{args.hub}: for the Hugging Face Hub")
