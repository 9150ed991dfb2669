"""What stopping a training by a signal costs, and saving by time: python tools/benchmarks/stopping.py CONFIG.

    python tools/benchmarks/stopping.py configs/quadmamba/quadmamba-small_synthetic.py --processes 2 --amp

A training is started, stopped by SIGTERM after some seconds, and resumed. The table has the iteration at which it
stopped, the name of the state, the seconds from the signal to the saved file and to the end of all processes, and the
size of the state. Then two trainings compare the seconds per iteration without and with a state saved every few
seconds.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measured.programs import failure
from ssm_train.apis import arguments as kinds
from ssm_train.apis import cli

TOOLS = Path(__file__).resolve().parents[1]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", help="config of the training")
    parser.add_argument(
        "--processes", type=kinds.whole_number(), default=1, help="one per GPU, by tree-ssm dist-train if more than one"
    )
    parser.add_argument(
        "--seconds",
        type=kinds.number(0, above=True),
        default=30.0,
        help="of training, before the signal and in comparisons",
    )
    parser.add_argument(
        "--every",
        type=kinds.number(0, above=True),
        default=5.0,
        help="seconds from one state to the next, in comparisons",
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision, see tree-ssm train")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change the config")
    return parser.parse_args(arguments)


def start(args: argparse.Namespace, folder: Path, *options: str, resume: bool = False) -> subprocess.Popen:
    """Start a training that logs every iteration, and wait for its first ten."""
    common = ["--work-dir", str(folder), *["--amp"] * args.amp, *["--resume"] * resume]
    common += ["--cfg-options", *args.cfg_options, "default_hooks.logger.interval=1", *options]
    if args.processes > 1:
        command = [str(TOOLS / "dist_train.sh"), args.config, str(args.processes), *common]
    else:
        command = [sys.executable, str(TOOLS / "train.py"), args.config, *common]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHON": sys.executable, **os.environ},
    )
    before = len(iterations(folder))
    while len(iterations(folder)) < before + 10:
        if process.poll() is not None:
            raise failure("the training", process.returncode, process.stderr.read())
        time.sleep(0.05)
    return process


def stop(process: subprocess.Popen) -> tuple[float, str]:
    """Send SIGTERM. Return the seconds until the end, and what was said."""
    begin = time.time()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    if process.returncode != 75:
        raise failure("the training", process.returncode, said)
    return time.time() - begin, said


def iterations(folder: Path) -> list[dict]:
    """What was logged of each iteration, in the order of time."""
    files = sorted(folder.glob("*/vis_data/scalars.json"), key=lambda path: path.stat().st_mtime)
    lines = [line for path in files for line in path.read_text().splitlines() if line.endswith("}")]
    return [record for record in map(json.loads, lines) if "train/time" in record]


def measure_stop(args: argparse.Namespace, folder: Path) -> None:
    """Print what stopping and resuming cost."""
    process = start(args, folder)
    time.sleep(args.seconds)
    sent, logged = time.time(), len(iterations(folder))
    ended, said = stop(process)
    stopped = int(re.search(r"after iteration (\d+)", said)[1])
    state = folder / (folder / "last_checkpoint").read_text()
    print(f"stopped after iteration {stopped} ({logged} when the signal came), saved {state.name}")
    print(f"seconds from the signal to the saved state {state.stat().st_mtime - sent:.2f}, to the end {ended:.2f}")
    print(f"size of the state {state.stat().st_size / 1e6:.0f} MB")
    begin = time.time()
    process = start(args, folder, resume=True)
    print(f"seconds from starting anew to the tenth iteration {time.time() - begin:.1f}")
    stop(process)


def measure_saving(args: argparse.Namespace, folder: Path) -> None:
    """Print the seconds per iteration without and with states by time."""
    for name, minutes in (("no state", 1e6), (f"a state every {args.every:g} s", args.every / 60)):
        process = start(args, folder / name, f"default_hooks.timed_checkpoint.minutes={minutes}")
        time.sleep(args.seconds)
        stop(process)
        times = sorted(record["train/time"] for record in iterations(folder / name)[10:])
        mean, median, top = statistics.mean(times), statistics.median(times), times[-1]
        print(f"{name}: {len(times)} iterations, seconds each: mean {mean:.4f}, median {median:.4f}, longest {top:.3f}")


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    args = parse_arguments(argv)
    # Imported after parsing so that --help stays fast.
    from ssm_train.runtime.config import load_config

    config = load_config(args.config, args.cfg_options)  # its errors are known before any process starts
    # A training must not come to its end by itself, and the signal must not come in a validation.
    length = "max_epochs" if "max_epochs" in config.train_cfg else "max_iters"
    args.cfg_options = [*args.cfg_options, f"train_cfg.{length}=1000000", "train_cfg.val_interval=1000000"]
    with tempfile.TemporaryDirectory() as folder:
        measure_stop(args, Path(folder) / "stopped")
        measure_saving(args, Path(folder))


if __name__ == "__main__":
    sys.exit(cli.run(main))
