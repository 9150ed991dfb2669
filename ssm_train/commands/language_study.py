"""Does the tree help? A small Mamba pretrained on a text, then fine-tuned with and without the tree, over some seeds.

    tree-ssm language-study --text data/text/wiki_demo.txt --rows data/text/alpaca_en_demo.json

The study learns a tokenizer and pretrains configs/mambatree_l/wiki/mamba-4m_wiki.py. It evaluates that model on the
held-out rows as it is, and fine-tunes it by LoRA alone and as MambaTree-L under each seed. It prints the held-out
perplexity of the responses, mean and standard deviation over the seeds, and writes every figure to results.json in the
work folder. What is there already is kept, so that a stopped study goes on where it was.
"""

import argparse
import statistics
from pathlib import Path

from ssm_train.apis import arguments as kinds

FOLDER = "mambatree_l/wiki"
TUNINGS = {"LoRA": f"{FOLDER}/mamba-4m-lora_alpaca-demo", "MambaTree-L": f"{FOLDER}/mambatree-l-4m_alpaca-demo"}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="tree-ssm language-study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--text", type=Path, required=True, help="UTF-8 text to pretrain on")
    add("--rows", type=Path, required=True, help="JSON list of instruction, input and output")
    add("--work-dir", type=Path, default=Path("work_dirs/language_study"))
    add("--seeds", type=kinds.whole_number(0, kinds.LARGEST_SEED), nargs="+", default=[0, 1, 2])
    add(
        "--parallel",
        type=kinds.whole_number(),
        default=1,
        help="fine-tunings at a time; a GPU has room for several of these",
    )
    add(
        "--pretraining-only",
        action="store_true",
        help="stop when the small Mamba is pretrained, for studies of its own",
    )
    add("--vocab-size", type=kinds.whole_number(), default=4096)
    add("--pretraining-options", nargs="+", default=[], metavar="KEY=VALUE", help="change the pretraining's config")
    add("--tuning-options", nargs="+", default=[], metavar="KEY=VALUE", help="change the fine-tunings' configs")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the study and print its table."""
    args = parse_arguments(arguments)
    # Imported after parsing so that --help stays fast.
    from ssm_train.apis.language_study import Recipes, Study, StudySettings

    recipes = Recipes(f"{FOLDER}/mamba-4m_wiki", f"{FOLDER}/mamba-4m_alpaca-demo", TUNINGS)
    settings = StudySettings(
        args.text.resolve(), args.rows.resolve(), args.work_dir.resolve(), tuple(args.seeds), args.parallel,
        args.vocab_size, tuple(args.pretraining_options), tuple(args.tuning_options),
    )  # fmt: skip
    study = Study(settings, recipes)
    if args.pretraining_only:
        print(study.pretrain())
        return
    results = study.run()
    print(f"\n{'held-out perplexity':20} {'mean':>8} {'sd':>7}")
    for name, values in results.items():
        spread = f"{statistics.stdev(values):7.3f}" if len(values) > 1 else ""
        print(f"{name:20} {statistics.mean(values):8.3f} {spread}")
