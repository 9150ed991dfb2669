"""A page to look into models with: tree-ssm explore [CHECKPOINT …], then open the address that it prints.

The page opens with example photos and with the weights of both families that come with the package and were trained on
photos. Choose a photo or drop one of your own, and click a pixel of any picture. For one block of MambaTree the page
draws the tree over the photo and the affinity of the pixel along the tree, beside a scan row by row. For one block of
QuadMamba it draws the windows of the quadtree at every depth, the scores and the scan. Below are all blocks. The page
says what the weights were trained on, and shows no classes for a photo that they cannot be about.

Named checkpoints take the place of the weights of their family. Two of one family can be compared, and each with random
weights. A config without a checkpoint gets the weights that come with the package for it. The page is served to this
machine alone, unless --host says otherwise.
"""

import argparse
import re

from ssm_train.apis import arguments as kinds
from ssm_train.apis import cli


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="tree-ssm explore",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT",
                        help="any number of each family: a file of tree-ssm train or tree-ssm convert, "
                        "CONFIG=CHECKPOINT, or a CONFIG that the package has weights for")  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    parser.add_argument("--side", type=int, help="photos are scaled to the area of a square of this side, in pixels "
                        "(default: the model's own)")  # fmt: skip
    parser.add_argument("--max-upload", type=_size, default="10mb", metavar="SIZE",
                        help="size of the largest file, such as 500kb or 20mb (default: 10mb)")  # fmt: skip
    parser.add_argument(
        "--max-megapixels", type=kinds.number(0, above=True), default=40, help="size of the largest photo (default: 40)"
    )
    args = parser.parse_args(arguments)
    if args.side is not None and not 32 <= args.side <= 1024:
        parser.error(f"--side is 32 to 1024, not {args.side}")
    if args.port is not None and not 1 <= args.port <= 65535:
        parser.error(f"--port is 1 to 65535, not {args.port}")
    return args


def _size(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*(b|kb|mb|gb)", text.lower()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 500kb or 20mb")
    return text.lower()


def main(arguments: list[str] | None = None) -> None:
    """Serve the page until Ctrl-C."""
    args = parse_arguments(arguments)
    # Imported after parsing so that --help stays fast.
    from ssm_train.apis.explore import Address, Explorer, open_models, served

    models = open_models(args.checkpoints)
    for opened in models:  # a config does not say whose weights it gets
        cli.say(opened.title)
    explorer = Explorer(models, args.max_megapixels, args.side)
    with served(explorer, Address(args.host, args.port), args.max_upload) as page:
        print(f"open {page.url} in a browser; Ctrl-C ends it", flush=True)
        page.wait()
