"""How long a compiled training takes to its first iteration, with an empty cache of torch.compile and with a warm one.

    python tools/benchmarks/first_iteration.py configs/mambatree/mambatree-tiny_synthetic.py --amp

Each start is a process of its own, as a user starts it. The seconds are from the start of the process to the line of
the log with the first iteration. The training is stopped there. The cache is in a folder that is deleted afterwards.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ssm_core.errors import UserError
from ssm_train.apis import arguments as kinds
from ssm_train.apis import cli

FIRST = re.compile(r"(Epoch|Iter)\(train\)")


def seconds_to_first(command: list[str], cache: str) -> float:
    """Start a training with a folder for torch's cache, and stop it after its first iteration.

    Raises:
        UserError: it ends before that.
    """
    start = time.perf_counter()
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
    training = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert training.stdout is not None
    last = ""
    for line in training.stdout:
        if FIRST.search(line):
            seconds = time.perf_counter() - start
            training.kill()
            training.wait()
            return seconds
        last = line.strip() or last
    raise UserError(f"the training ended before its first iteration: {last.removeprefix('error: ')}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", help="config of the training")
    parser.add_argument("--warm", type=kinds.whole_number(), default=2, help="how many starts with a warm cache")
    parser.add_argument("--amp", action="store_true", help="as for tree-ssm train")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="as for tree-ssm train")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Start with an empty cache, then with what that start has left, and print the seconds."""
    options = parse(argv)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ssm_train.commands", "train", options.config, "--compile", "--overwrite"]
        command += ["--work-dir", str(Path(folder) / "run"), *(["--amp"] if options.amp else [])]
        command += ["--cfg-options", "default_hooks.logger.interval=1", *options.cfg_options]
        for number in range(options.warm + 1):
            seconds = seconds_to_first(command, str(Path(folder) / "cache"))
            print(f"{'warm' if number else 'empty'} cache: {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(cli.run(main))
