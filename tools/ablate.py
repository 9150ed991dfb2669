"""Trains every combination of a grid of settings and compares them: python tools/ablate.py CONFIG --grid KEY=A,B,C.

    python tools/ablate.py configs/quadmamba/quadmamba-nano_digits.py \\
        --grid model.backbone.quadtree_levels=0,1,2 --grid seed=0,1,2

Each combination is a run of tools/train.py in a folder of its own. Finished runs are kept and stopped ones go on where
they were, so the same command may be given again. A run that fails is named in the table and the others go on.
table.md, table.csv and table.json in the work folder are written anew after every run.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from ssm_train.apis import cli

if TYPE_CHECKING:
    from mmengine.config import Config

    from ssm_train.apis.sweep import Outcome, Settings

TOOLS = Path(__file__).resolve().parent
RECORD, LOG = "ablation.json", "ablation.log"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", help="what the runs share")
    parser.add_argument(
        "--grid", action="append", required=True, metavar="KEY=A,B,C",
        help="values of a config's key, to be combined with every other grid's; seed stands for randomness.seed",
    )  # fmt: skip
    parser.add_argument("--work-dir", type=Path, help="where the runs go (default: work_dirs/ablate_CONFIG)")
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change the config of all runs"
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision, see tools/train.py")
    parser.add_argument("--compile", action="store_true", help="torch.compile, see tools/train.py")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--processes", type=int, default=1, metavar="N", help="of each run, by tools/dist_train.sh")
    where.add_argument("--partition", help="submit all runs at once to this Slurm partition, by tools/slurm_train.sh")
    return parser.parse_args(arguments)


class Sweep:
    """The runs of a grid and their folders.

    Args:
        args: the command line.
    """

    def __init__(self, args: argparse.Namespace):
        from ssm_train.apis.sweep import Outcome, combinations, count_parameters, folder_names, metric_of, parse_grid
        from ssm_train.runtime.config import load_config

        self.args = args
        self.writing = threading.Lock()
        self.work_dir: Path = args.work_dir or Path("work_dirs") / f"ablate_{Path(args.config).stem}"
        runs = combinations(parse_grid(args.grid))
        # All of them before the first is run: a misspelt key should not show after hours.
        self.configs: list[Config] = [load_config(args.config, self.options(settings)) for settings in runs]
        self.metric, _ = metric_of(self.configs[0])
        self.outcomes: list[Outcome] = [
            Outcome(settings, folder, parameters=count_parameters(cfg))
            for settings, folder, cfg in zip(runs, folder_names(runs), self.configs, strict=True)
        ]
        for number in range(len(runs)):
            self.recall(number)

    def options(self, settings: "Settings") -> list[str]:
        """What a run changes in the config."""
        return [*self.args.cfg_options, *(f"{key}={value}" for key, value in settings.items())]

    def recall(self, number: int) -> None:
        """Take up what an earlier call noted of a run."""
        from ssm_core.errors import ConfigError
        from ssm_train.apis.sweep import read_curves

        outcome = self.outcomes[number]
        folder = self.work_dir / outcome.folder
        if not (folder / RECORD).is_file():
            return
        known = json.loads((folder / RECORD).read_text())
        if known["given"] != self.given(outcome.settings):
            raise ConfigError(f"{folder} holds a run with other settings: give another --work-dir, or remove it")
        outcome.status, outcome.seconds, outcome.error = known["status"], known["seconds"], known["error"]
        read_curves(outcome, folder, self.configs[number])

    def given(self, settings: "Settings") -> dict:
        """What makes a run what it is."""
        return {"config": Path(self.args.config).name, "options": self.options(settings), "amp": self.args.amp}

    def command(self, outcome: "Outcome") -> list[str]:
        """How a run is started."""
        rest = ["--work-dir", str(self.work_dir / outcome.folder), *["--amp"] * self.args.amp]
        rest += ["--compile"] * self.args.compile
        rest += ["--cfg-options", *self.options(outcome.settings)]
        if self.args.partition:
            return [str(TOOLS / "slurm_train.sh"), self.args.partition, self.args.config, *rest]  # it gives --resume
        if self.args.processes > 1:
            return [str(TOOLS / "dist_train.sh"), self.args.config, str(self.args.processes), "--resume", *rest]
        return [sys.executable, str(TOOLS / "train.py"), self.args.config, "--resume", *rest]

    def run(self, number: int) -> None:
        """Train one combination, unless it is done, and note what came of it."""
        from ssm_train.apis.sweep import read_curves
        from ssm_train.runtime.files import write_text_atomically

        outcome = self.outcomes[number]
        if outcome.status == "done":
            return
        folder = self.work_dir / outcome.folder
        folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        with (folder / LOG).open("wb") as log:
            status = subprocess.run(
                self.command(outcome), stdout=log, stderr=log, env={"PYTHON": sys.executable, **os.environ}
            ).returncode
        outcome.seconds += time.perf_counter() - start
        outcome.status = "failed" if status else "done"
        outcome.error = reason(status, folder / LOG) if status else ""
        record = {"given": self.given(outcome.settings), "status": outcome.status}
        record |= {"seconds": outcome.seconds, "error": outcome.error}
        write_text_atomically(folder / RECORD, json.dumps(record, indent=1))
        read_curves(outcome, folder, self.configs[number])

    def write(self) -> None:
        """Write the tables."""
        from ssm_train.apis.sweep import as_csv, as_json, as_markdown
        from ssm_train.runtime.files import write_text_atomically

        name = Path(self.args.config).stem
        write_text_atomically(self.work_dir / "table.md", as_markdown(self.outcomes, name, self.metric))
        write_text_atomically(self.work_dir / "table.csv", as_csv(self.outcomes))
        write_text_atomically(self.work_dir / "table.json", as_json(self.outcomes, name, self.metric))

    def __call__(self) -> None:
        """Run what is not done: one after the other, or under Slurm, which has a queue of its own, all at once."""
        with ThreadPoolExecutor(len(self.outcomes) if self.args.partition else 1) as pool:
            for number, outcome in enumerate(pool.map(self._run_and_write, range(len(self.outcomes))), 1):
                best = "" if outcome.best is None else f", {self.metric} {outcome.last:.4g}, best {outcome.best:.4g}"
                note = f": {outcome.error}" if outcome.error else best
                print(f"[{number}/{len(self.outcomes)}] {outcome.folder} {outcome.status}{note}", flush=True)

    def _run_and_write(self, number: int) -> "Outcome":
        self.run(number)
        with self.writing:
            self.write()
        return self.outcomes[number]


def reason(status: int, log: Path) -> str:
    """Why a run failed: the signal that killed it, or the last line it printed."""
    if status < 0:
        return f"killed by signal {-status} (log: {log})"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error")]
    return (errors or lines or [f"exit status {status}"])[-1].removeprefix("error: ")


def main(arguments: list[str] | None = None) -> None:
    """Run the grid and print the table."""
    args = parse_arguments(arguments)
    # Imported after parsing so that --help stays fast.
    from ssm_core.errors import UserError

    sweep = Sweep(args)
    print(f"{len(sweep.outcomes)} runs in {sweep.work_dir}; each one's output is in its {LOG}", flush=True)
    sweep()
    print(f"\n{(sweep.work_dir / 'table.md').read_text()}")
    failed = sum(outcome.status == "failed" for outcome in sweep.outcomes)
    if failed:
        raise UserError(f"{failed} of {len(sweep.outcomes)} runs failed; the same command tries them again")


if __name__ == "__main__":
    sys.exit(cli.run(main))
