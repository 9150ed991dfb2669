"""Train the same config with one process and with several, at the same global batch; compare speed and loss curves.

    python tools/benchmarks/distributed.py configs/quadmamba/quadmamba-small_synthetic.py --processes 1 2 --batch 256
    python tools/benchmarks/distributed.py configs/quadmamba/quadmamba-nano_digits.py --processes 1 2 --batch 32 \\
        --cfg-options model.backbone.choice=3

The second command compares the loss curves. They agree to rounding, because this config has no mixup, batch norm or
Gumbel noise, which look at the images of one process. ``--cfg-options compile=True optim_wrapper.dtype=bfloat16``
compares trainings as recipes for GPUs have them. Each count runs through tree-ssm dist-train, with one process for
every GPU, or with gloo on CPUs. The rate is the global batch divided by the median time of an iteration. The times are
those of the training log without its first point.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from measured.programs import run_program
from ssm_core.errors import UserError
from ssm_train.apis import arguments as kinds
from ssm_train.apis import cli

DIST_TRAIN = Path(__file__).parents[1] / "dist_train.sh"
TIME = re.compile(r"Epoch\(train\).* time: ([0-9.]+)")


@dataclass
class Row:
    """One count of processes. The last two figures compare it with the first count."""

    processes: int
    images_per_second: float
    seconds_per_iteration: float
    speed_up: float
    largest_loss_difference: float  # relative, over the points of the training curve


def train(options: argparse.Namespace, processes: int) -> tuple[float, list[float]]:
    """Train with a number of processes; returns the median time of an iteration in seconds, and the losses."""
    folder = options.work_dir / f"processes_{processes}"
    command = ["bash", str(DIST_TRAIN), options.config, str(processes), "--work-dir", str(folder), "--overwrite"]
    command += ["--cfg-options", *settings(options, processes)]
    what = f"the training of {options.config} in {processes} processes"
    run_program(command, what, stdout=subprocess.DEVNULL, environment={**os.environ, "PYTHON": sys.executable})
    log = max(folder.glob("*/*.log")).read_text()
    times = [float(match) for match in TIME.findall(log)]
    if len(times) < 2:
        raise UserError(f"{options.config} is too short to time: it needs 20 iterations at least")
    curves = json.loads((folder / "curves.json").read_text())
    return statistics.median(times[1:]), [point["loss"] for point in curves["train"]]


def settings(options: argparse.Namespace, processes: int) -> list[str]:
    """What is changed in the config of a training."""
    own = [f"train_dataloader.batch_size={options.batch // processes}", "default_hooks.logger.interval=10"]
    return [*own, "default_hooks.curves.interval=1", *options.cfg_options]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument(
        "--processes", nargs="+", type=kinds.whole_number(), default=[1, 2], help="all are compared with the first"
    )
    parser.add_argument(
        "--batch", type=kinds.whole_number(), default=256, help="images of all processes in an iteration"
    )
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/distributed"))
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="as for tree-ssm train")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args(argv)
    uneven = [n for n in options.processes if n < 1 or options.batch % n]
    if uneven:
        parser.error(f"--batch {options.batch} does not divide among {uneven[0]} processes")
    return options


def main(argv: list[str] | None = None) -> list[Row]:
    """Train with every count, print a table, and return its rows."""
    options = parse(argv)
    # Imported after parsing so that --help stays fast.
    from ssm_train.runtime.config import load_config
    from ssm_train.runtime.files import check_file, check_folder, write_text_atomically

    if options.json:
        check_file(options.json)
    check_folder(options.work_dir / "processes_1")
    load_config(options.config, settings(options, 1))  # its errors are known before any process starts
    rows = []
    for processes in options.processes:
        seconds, losses = train(options, processes)
        if not rows:
            first_seconds, first_losses = seconds, losses
        difference = max(abs(a - b) / abs(b) for a, b in zip(losses, first_losses, strict=True))
        rows.append(Row(processes, options.batch / seconds, seconds, first_seconds / seconds, difference))
    print(f"{'processes':>9} {'img/s':>9} {'s/iteration':>12} {'speed-up':>9} {'loss differs by':>16}")
    for row in rows:
        print(
            f"{row.processes:9} {row.images_per_second:9.1f} {row.seconds_per_iteration:12.4f} {row.speed_up:9.2f} "
            f"{row.largest_loss_difference:16.1e}"
        )
    if options.json:
        write_text_atomically(options.json, json.dumps([asdict(row) for row in rows], indent=2))
    return rows


if __name__ == "__main__":
    sys.exit(cli.run(main))
