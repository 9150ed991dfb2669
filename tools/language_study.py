"""Does the tree help? A small Mamba pretrained on a text, then fine-tuned with and without the tree, over some seeds.

    python tools/language_study.py --text data/text/wiki_demo.txt --rows data/text/alpaca_en_demo.json

Learns a tokenizer, pretrains configs/mambatree_l/wiki/mamba-4m_wiki.py, evaluates it on the held-out rows as it is, and
fine-tunes it by LoRA alone and as MambaTree-L under each seed. Prints the held-out perplexity of the responses, mean
and standard deviation over the seeds, and writes every figure to results.json in the work folder. What is there already
is kept, so that a stopped study goes on where it was.
"""

import argparse
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs" / "mambatree_l" / "wiki"
PRETRAINING = CONFIGS / "mamba-4m_wiki.py"
BASE = CONFIGS / "mamba-4m_alpaca-demo.py"
SETTINGS = {
    "LoRA": CONFIGS / "mamba-4m-lora_alpaca-demo.py",
    "MambaTree-L": CONFIGS / "mambatree-l-4m_alpaca-demo.py",
}


def run(tool: str, *arguments: object) -> str:
    """Run a tool of this folder and return what it printed."""
    command = [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit status {done.returncode}:\n{done.stdout[-2000:]}")
    return done.stdout


def pretrain(options: argparse.Namespace) -> Path:
    """Tokenizer and pretrained model; the folder of both."""
    tokenizer, pretrained = options.work_dir / "tokenizer", options.work_dir / "pretrained"
    if not (tokenizer / "tokenizer.json").exists():
        print(run("train_tokenizer", tokenizer, options.text, "--vocab-size", options.vocab_size), end="", flush=True)
    if not (pretrained / "config.json").exists():
        changes = [
            f"model.backbone.tokenizer={tokenizer}",
            *(f"{part}_dataloader.dataset.{key}={value}" for part in ("train", "val", "test")
              for key, value in (("path", options.text), ("tokenizer.path", tokenizer))),
            *options.pretraining_options,
        ]  # fmt: skip
        folder = options.work_dir / "pretraining"
        printed = run("train", PRETRAINING, "--work-dir", folder, "--resume", "--cfg-options", *changes)
        print(f"pretraining: {printed.splitlines()[-1]}", flush=True)
        checkpoint = (folder / "last_checkpoint").read_text().strip()
        run("merge_adapters", PRETRAINING, checkpoint, pretrained, "--cfg-options", *changes)
    return pretrained


def changes_of(pretrained: Path, options: argparse.Namespace) -> list[str]:
    """What every fine-tuning and test changes in its config."""
    data = [
        f"{part}_dataloader.dataset.{key}={value}"
        for part in ("train", "val", "test")
        for key, value in (("path", options.rows), ("tokenizer.path", pretrained))
    ]
    return [f"model.backbone.path={pretrained}", *data]


def perplexities(pretrained: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    """Held-out perplexity of the responses, as pretrained and under each setting and seed, after the last epoch."""
    changes = changes_of(pretrained, options)
    of_test = [change for change in changes if not change.startswith("train_dataloader")]
    printed = run("test", BASE, "--work-dir", options.work_dir / "base", "--cfg-options", *of_test)
    results = {"as pretrained": [float(printed.splitlines()[-1].split("perplexity ")[1])]}
    print(f"as pretrained: {results['as pretrained'][0]:.2f}", flush=True)

    def tune(run_of: tuple[str, int]) -> tuple[str, float]:
        name, seed = run_of
        folder = options.work_dir / f"{name.lower()}_seed{seed}"
        extra = [f"randomness.seed={seed}", *changes, *options.tuning_options]
        printed = run("train", SETTINGS[name], "--work-dir", folder, "--resume", "--cfg-options", *extra)
        print(f"{name}, seed {seed}: {printed.splitlines()[-1]}", flush=True)
        return name, json.loads((folder / "curves.json").read_text())["val"][-1]["perplexity"]

    with ThreadPoolExecutor(options.parallel) as pool:
        for name, value in pool.map(tune, [(name, seed) for name in SETTINGS for seed in options.seeds]):
            results.setdefault(name, []).append(value)
    return results


def main(arguments: list[str] | None = None) -> None:
    """Run the study and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--text", type=Path, required=True, help="UTF-8 text to pretrain on")
    add("--rows", type=Path, required=True, help="JSON list of instruction, input and output")
    add("--work-dir", type=Path, default=Path("work_dirs/language_study"))
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--parallel", type=int, default=1, help="fine-tunings at a time: a GPU has room for several of these")
    add("--vocab-size", type=int, default=4096)
    add("--pretraining-options", nargs="+", default=[], metavar="KEY=VALUE", help="changes of the pretraining's config")
    add("--tuning-options", nargs="+", default=[], metavar="KEY=VALUE", help="changes of the fine-tunings' configs")
    options = parser.parse_args(arguments)
    options.text, options.rows, options.work_dir = (
        path.resolve() for path in (options.text, options.rows, options.work_dir)
    )
    results = perplexities(pretrain(options), options)
    options.work_dir.joinpath("results.json").write_text(json.dumps({"seeds": options.seeds, **results}, indent=2))
    print(f"\n{'held-out perplexity':20} {'mean':>8} {'sd':>7}")
    for name, values in results.items():
        spread = f"{statistics.stdev(values):7.3f}" if len(values) > 1 else ""
        print(f"{name:20} {statistics.mean(values):8.3f} {spread}")


if __name__ == "__main__":
    main()
