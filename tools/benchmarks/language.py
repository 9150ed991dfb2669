"""Tokens a second of MambaTree-L beside the plain chain and transformers' own Mamba, all in one run.

    python tools/benchmarks/language.py --mode train --lengths 512 2048 --json train.json
    python tools/benchmarks/language.py --mode prefill --lengths 512 2048 --json prefill.json

The models have the size of Mamba-130M and random weights. `mambatree-l` has the tree, over the share of each row that
`--prompt` says (over whole rows in a prefill). `chain` is the same without the tree, through our selective scan.
`mamba-ssm` is the chain through that package's kernel, if it is installed. `transformers` is transformers' own model,
whose scan is sequential without that package. A training step is forward, loss on the responses (on all tokens for
transformers), backward and a fused AdamW update of all weights, under autocast. A prefill is one forward pass that
leaves a cache and the last token's logits. The models take turns, round by round. The rate is that of the median round;
the spread (±) is the distance between the quartiles. A model that runs out of memory is named and left out.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ssm_train.apis import arguments as kinds
from ssm_train.apis import cli

if TYPE_CHECKING:  # imported when it is needed, so that --help stays fast
    from measured.language import Row

MODELS = ("mambatree-l", "chain", "mamba-ssm", "transformers")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", nargs="+", choices=MODELS, help="default: all whose packages are installed")
    add("--mode", choices=["train", "prefill"], default="train")
    add("--lengths", nargs="+", type=kinds.whole_number(), default=[512, 2048], help="tokens a row")
    add("--batch", type=kinds.whole_number(), help="rows a step (default: 8 on a GPU, 1 on a CPU)")
    add("--prompt", type=kinds.number(0, 1), default=0.5, help="share of each row that is its prompt, in training")
    add("--compile", action="store_true", help="torch.compile every layer (transformers then scans in parallel)")
    add("--checkpointing", action="store_true", help="recompute the layers in the backward pass")
    add("--dtype", choices=["float32", "bfloat16", "float16"], help="default: bfloat16 on a GPU, float32 on a CPU")
    add("--width", type=kinds.whole_number(), default=768)
    add("--layers", type=kinds.whole_number(), default=24)
    add("--device", choices=["cpu", "cuda"], help="default: a GPU if there is one")
    add("--rounds", type=kinds.whole_number(), default=7, help="turns of each model, two at least")
    add("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args(argv)
    if options.rounds < 2:
        parser.error("--rounds must be 2 at least, for the spread")
    if not 0 <= options.prompt < 1:
        parser.error("--prompt must be at least 0 and less than 1, since a loss needs a response")
    return options


def main(argv: list[str] | None = None) -> "list[Row]":
    """Measure, print a table, and return the rows."""
    options = parse(argv)
    # Imported after parsing so that --help stays fast.
    from measured.language import run

    return run(options, MODELS)


if __name__ == "__main__":
    sys.exit(cli.run(main))
