"""The runs of a sweep: started one after the other or all at once, kept when they are done, tried again when not."""

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from ssm_core.errors import ConfigError, DataError, UserError
from ssm_train.apis.sweep import (
    Outcome,
    Settings,
    as_csv,
    as_json,
    as_markdown,
    combinations,
    count_parameters,
    folder_names,
    metric_of,
    parse_grid,
    read_curves,
)
from ssm_train.runtime.config import load_config
from ssm_train.runtime.files import check_folder, make_folder, write_text_atomically

RECORD, LOG = "ablation.json", "ablation.log"  # in the folder of each run


@dataclass(frozen=True)
class Launch:
    """How a run is started: in one process, by torchrun in several, or by Slurm.

    Attributes:
        processes: of each run, on this machine.
        partition: of Slurm, to which all runs are submitted at once; None to run them here, one after the other.
    """

    processes: int = 1
    partition: str | None = None

    def command(self, config: str, arguments: list[str]) -> list[str]:
        """The command that starts a run, or goes on with it.

        Args:
            config: the config file.
            arguments: of ``tree-ssm train``, besides the config and ``--resume``.
        """
        tree_ssm = [sys.executable, "-m", "ssm_train.commands"]
        if self.partition:
            # The command gives --resume itself.
            return [*tree_ssm, "slurm-train", self.partition, config, *arguments]
        if self.processes > 1:
            return [*tree_ssm, "dist-train", config, str(self.processes), "--resume", *arguments]
        return [*tree_ssm, "train", config, "--resume", *arguments]


@dataclass(frozen=True)
class SweepSettings:
    """What the runs of a sweep are.

    Attributes:
        config: the config file that all runs share.
        grid: ``KEY=A,B,C`` for every key that differs, see :func:`~ssm_train.apis.sweep.parse_grid`.
        options: ``KEY=VALUE`` for what is changed in the config of all runs.
        work_dir: where the runs go; ``work_dirs/ablate_CONFIG`` if left out.
        amp: train in mixed precision.
        compiled: compile the networks.
    """

    config: str
    grid: tuple[str, ...]
    options: tuple[str, ...] = ()
    work_dir: Path | None = None
    amp: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        """The config's name."""
        return Path(self.config).stem

    @property
    def folder(self) -> Path:
        """Where the runs go."""
        return self.work_dir or Path("work_dirs") / f"ablate_{self.name}"

    def options_of(self, run: Settings) -> list[str]:
        """Everything that one run changes in the config."""
        return [*self.options, *(f"{key}={value}" for key, value in run.items())]

    def arguments_of(self, run: Settings, folder: Path) -> list[str]:
        """The arguments of ``tree-ssm train`` for one run.

        Args:
            run: what distinguishes the run.
            folder: the run's folder.
        """
        switches = ["--amp"] * self.amp + ["--compile"] * self.compiled
        return ["--work-dir", str(folder), *switches, "--cfg-options", *self.options_of(run)]

    def identity_of(self, run: Settings) -> dict:
        """What makes a run what it is, so that a kept run is not taken for another."""
        return {"config": f"{self.name}.py", "options": self.options_of(run), "amp": self.amp}


class Sweep:
    """The runs of a grid and their folders.

    All configs are loaded before any run starts: a misspelt key must not show after hours.

    Args:
        settings: what the runs are.
        launch: how they are started.

    Raises:
        ConfigError: the grid or a config is wrong, or the folder holds a run with other settings.
        WriteError: the folder cannot be written.
    """

    def __init__(self, settings: SweepSettings, launch: Launch):
        self.settings, self.launch = settings, launch
        self.folder = settings.folder
        check_folder(self.folder)
        self._writing = threading.Lock()
        runs = combinations(parse_grid(settings.grid))
        self.configs: list[Config] = [load_config(settings.config, settings.options_of(run)) for run in runs]
        self.metric, _ = metric_of(self.configs[0])
        self.outcomes = [
            Outcome(run, folder, parameters=count_parameters(cfg))
            for run, folder, cfg in zip(runs, folder_names(runs), self.configs, strict=True)
        ]
        for number in range(len(runs)):
            self._recall(number)

    def run(self) -> Iterator[Outcome]:
        """Train every combination that is not done, and write the tables anew after each.

        Runs are started one after the other, but all at once under Slurm, which has a queue of its own.

        Yields:
            What came of each run, in the order of the grid. A run that fails does not stop the others.
        """
        with ThreadPoolExecutor(len(self.outcomes) if self.launch.partition else 1) as pool:
            yield from pool.map(self._run_one, range(len(self.outcomes)))

    def table(self) -> str:
        """The table in Markdown, see :func:`~ssm_train.apis.sweep.as_markdown`."""
        return as_markdown(self.outcomes, self.settings.name, self.metric)

    def describe(self, outcome: Outcome) -> str:
        """What came of a run in a line."""
        best = "" if outcome.best is None else f", {self.metric} {outcome.last:.4g}, best {outcome.best:.4g}"
        return f"{outcome.folder} {outcome.status}{f': {outcome.error}' if outcome.error else best}"

    def check(self) -> None:
        """Raise unless all runs succeeded and were measured.

        Raises:
            UserError: some failed, and the message says how many; or none has the metric that is compared.
        """
        failed = sum(outcome.status == "failed" for outcome in self.outcomes)
        if failed:
            raise UserError(f"{failed} of {len(self.outcomes)} runs failed; the same command tries them again")
        if all(outcome.last is None or math.isnan(outcome.last) for outcome in self.outcomes):
            raise UserError(
                f"there is nothing to compare: no validation of the {len(self.outcomes)} runs measured {self.metric}"
            )

    def _recall(self, number: int) -> None:
        """Take up what an earlier call noted of a run."""
        outcome = self.outcomes[number]
        folder = self.folder / outcome.folder
        if not (folder / RECORD).is_file():
            return
        known = _record(folder / RECORD)
        if known["given"] != self.settings.identity_of(outcome.settings):
            raise ConfigError(f"{folder} holds a run with other settings: give another --work-dir, or remove it")
        outcome.status, outcome.seconds, outcome.error = known["status"], known["seconds"], known["error"]
        read_curves(outcome, folder, self.configs[number])

    def _run_one(self, number: int) -> Outcome:
        outcome = self.outcomes[number]
        if outcome.status != "done":
            self._train(number)
        with self._writing:
            self._write()
        return outcome

    def _train(self, number: int) -> None:
        """Train one combination, and note what came of it."""
        outcome = self.outcomes[number]
        folder = self.folder / outcome.folder
        make_folder(folder)
        command = self.launch.command(self.settings.config, self.settings.arguments_of(outcome.settings, folder))
        start = time.perf_counter()
        path = folder / LOG
        write_text_atomically(path, "")
        with path.open("ab") as log:  # a job of Slurm appends to it, too
            environment = dict(os.environ)
            if self.launch.partition:
                environment |= {"SBATCH_WAIT": "1", "SBATCH_OUTPUT": str(path.resolve()).replace("%", "%%")}
            status = subprocess.run(command, stdout=log, stderr=log, env=environment).returncode
        outcome.seconds += time.perf_counter() - start
        outcome.status = "failed" if status else "done"
        outcome.error = reason(status, path) if status else ""
        record = {"given": self.settings.identity_of(outcome.settings), "status": outcome.status}
        record |= {"seconds": outcome.seconds, "error": outcome.error}
        write_text_atomically(folder / RECORD, json.dumps(record, indent=1))
        read_curves(outcome, folder, self.configs[number])

    def _write(self) -> None:
        """Write the tables."""
        write_text_atomically(self.folder / "table.md", self.table())
        write_text_atomically(self.folder / "table.csv", as_csv(self.outcomes))
        write_text_atomically(self.folder / "table.json", as_json(self.outcomes, self.settings.name, self.metric))


def _record(path: Path) -> dict:
    """What an earlier call noted of a run.

    Raises:
        DataError: the file is damaged.
    """
    try:
        known = json.loads(path.read_text())
        numbers = isinstance(known["seconds"], int | float) and "given" in known
        sound = numbers and isinstance(known["error"], str) and known["status"] in ("done", "failed")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise DataError(f"{path} is damaged: remove it, and the run is done again")
    return known


def reason(status: int, log: Path) -> str:
    """Why a run failed: the signal that killed it, or else the last error, or else the last line, that it printed.

    Args:
        status: its exit status, which is negative after a signal.
        log: what it printed.
    """
    if status < 0:
        return f"killed by signal {-status} (log: {log})"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error")]
    return (errors or lines or [f"exit status {status}"])[-1].removeprefix("error: ")
