"""A trained model in a form that runs elsewhere: python tools/export.py CONFIG CKPT --format torch_export|aoti|onnx.

A classifier gives logits, a detector or segmentor the maps of its backbone; images come normalised as in the config's
test pipeline. Height, width and batch stay free unless --size fixes the first two. The file is checked against the
model on images before the tool ends. docs/export.md says how to load each.
"""

import argparse
import sys
from pathlib import Path

from ssm_train.apis import cli

FORMATS = ("torch_export", "aoti", "onnx")
TOLERANCE = 1e-3


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Export a trained model.", allow_abbrev=False)
    parser.add_argument("config", help="the config it was trained with, of any task of images")
    parser.add_argument("checkpoint", help="a .pth file of tools/train.py or tools/convert_checkpoint.py")
    parser.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    parser.add_argument("--out", type=Path, help="the file (default: the checkpoint's name with the format's suffix)")
    parser.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="fix the images' size (default: any)")
    parser.add_argument(
        "--image", type=Path, nargs="+", default=[], help="photos to check with (default: random images of two sizes)"
    )
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change the config")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Export, check, and say what came of it."""
    args = parse_arguments(arguments)
    # Later than the command line, so that --help is quick.
    import torch

    from ssm_core.errors import ConfigError, UserError
    from ssm_train.apis import export
    from ssm_train.runtime.config import load_config

    size = tuple(args.size) if args.size else None
    if size and min(size) < 32:
        raise ConfigError(f"--size takes sides of 32 and more, got {size[0]} {size[1]}")
    ending = Path(f"net{export.SUFFIXES[args.format]}").suffix
    if args.out and args.out.suffix != ending:
        raise ConfigError(f"--out has to end in {ending} for --format {args.format}, got {args.out}")
    export.check_format(args.format)
    cfg = load_config(args.config, args.cfg_options)
    network = export.load_network(cfg, args.checkpoint)
    channels = cfg.model.backbone.get("in_chans", 3)
    if args.image:
        batches = [export.photo(path, channels, size) for path in args.image]
    else:
        generator = torch.Generator().manual_seed(0)
        sizes = [size, size] if size else [(96, 160), (224, 224)]
        batches = [torch.randn(b, channels, *s, generator=generator) for b, s in zip((2, 1), sizes, strict=True)]
    path = args.out or Path(args.checkpoint).with_suffix(export.SUFFIXES[args.format])
    path.parent.mkdir(parents=True, exist_ok=True)
    export.WRITERS[args.format](export.trace(network, channels, size), path)
    found = export.compare(network, export.load_exported(path, args.format), batches)
    print(f"written     {path}, {path.stat().st_size / 2**20:.1f} MiB")
    print(f"difference  {found.difference:.1e} of the largest value")
    print(f"time        {found.milliseconds:.1f} ms an image, {found.eager:.1f} ms as it was")
    if not found.difference <= TOLERANCE:
        raise UserError(f"{path} differs from the model by {found.difference:.1e}, more than {TOLERANCE:g}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
