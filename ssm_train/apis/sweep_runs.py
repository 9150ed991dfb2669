"""The runs of a sweep: started one after the other or several at once, kept when done, and tried again when not."""

import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import torch
from mmengine.config import Config

from ssm_core.errors import ConfigError, StoppedError, UserError
from ssm_train.apis import cli, run_warnings
from ssm_train.apis.run_processes import Made, RunProcess, Training, environments
from ssm_train.apis.run_records import RECORD, differences, digest, read_record, reason, seconds_of
from ssm_train.apis.run_signals import PassedOn
from ssm_train.apis.sweep import (
    SEED,
    Outcome,
    Run,
    Settings,
    as_csv,
    as_json,
    as_markdown,
    combinations,
    count_parameters,
    folder_names,
    is_seed,
    metric_of,
    parse_grid,
    read_costs,
    read_curves,
)
from ssm_train.runtime import folder_lock
from ssm_train.runtime.config import load_config
from ssm_train.runtime.files import check_folder, make_folder, remove_leftovers, write_text_atomically

LOG = "ablation.log"  # in the folder of each run
TABLE = "table.md"
GO_ON = ("--resume", "--or-begin")
# What starts a program that gets SIGTERM when this one ends, where there is such a thing.
_WITH_PARENT = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()


@dataclass(frozen=True)
class Launch:
    """How a run is started: in one process, by torchrun in several, or by Slurm.

    Attributes:
        processes: of each run, on this machine.
        partition: of Slurm, to which all runs are submitted at once; None to run them here.
        at_once: runs at a time on this machine, each in one of as many processes that are kept from run to run and
            share its GPUs; None for one after the other, each in processes of its own.
    """

    processes: int = 1
    partition: str | None = None
    at_once: int | None = None

    def command(self, config: str, arguments: list[str]) -> list[str]:
        """The command that starts a run, or goes on with it.

        Args:
            config: the config file.
            arguments: of ``tree-ssm train``, besides the config and those that let a run go on.
        """
        tree_ssm = [sys.executable, "-m", "ssm_train.commands"]
        if self.partition:
            # The job gives these itself.
            return [*tree_ssm, "slurm-train", self.partition, config, *arguments]
        if self.processes > 1:
            return [*tree_ssm, "dist-train", config, str(self.processes), *GO_ON, *arguments]
        return [*tree_ssm, "train", config, *GO_ON, *arguments]


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

    def runs(self) -> list[Run]:
        """All runs.

        Raises:
            ConfigError: the grid is wrong.
        """
        settings = combinations(parse_grid(self.grid))
        return [Run(self.config, *both) for both in zip(settings, folder_names(settings), strict=True)]

    def told_of(self, run: Run) -> AbstractContextManager[None]:
        """A context whose errors say which run they are about, where that is more than what the user gave."""
        return nullcontext()

    def arguments_of(self, run: Settings, folder: Path) -> list[str]:
        """The arguments of ``tree-ssm train`` for one run.

        Args:
            run: what distinguishes the run.
            folder: the run's folder.
        """
        switches = ["--amp"] * self.amp + ["--compile"] * self.compiled
        return ["--work-dir", str(folder), *switches, "--cfg-options", *self.options_of(run)]

    def identity_of(self, run: Settings, config: str | None = None) -> dict:
        """What makes a run what it is, so that a kept run is not taken for another.

        Args:
            run: what distinguishes the run.
            config: its config; None for that of all runs.
        """
        return {
            "config": f"{Path(config or self.config).stem}.py",
            "options": self.options_of(run),
            "amp": self.amp,
            "compiled": self.compiled,
        }

    def tables(self, outcomes: Sequence[Outcome], metric: str) -> dict[str, str]:
        """The contents of the files that tell what came of all runs, by their names. ``table.md`` is for readers.

        Args:
            outcomes: of the runs, in the order of :meth:`runs`.
            metric: the metric that is compared.
        """
        return {
            TABLE: as_markdown(outcomes, self.name, metric),
            "table.csv": as_csv(outcomes),
            "table.json": as_json(outcomes, self.name, metric),
        }


class Sweep:
    """The runs of a grid, or of a study, and their folders.

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
        self._processes: SimpleQueue[RunProcess] = SimpleQueue()
        self._signals = PassedOn()
        self._saved = False  # whether a run that was stopped has a state to go on from
        self._tried: list[Outcome] = []  # runs of this call that have ended
        self._alike = ""  # the error with which the first runs failed, after which no other begins
        self.runs = settings.runs()
        self._contents: list[str] = []  # of every run: a digest of its config, whatever its seed
        self.configs, self.outcomes = self._loaded()
        metrics = list(dict.fromkeys(metric_of(cfg)[0] for cfg in self.configs))
        if len(metrics) > 1:
            raise ConfigError(f"the runs cannot be compared: some are measured by {metrics[0]}, others by {metrics[1]}")
        self.metric = metrics[0]
        for number in range(len(self.runs)):
            self._recall(number)

    def run(self) -> Iterator[Outcome]:
        """Train every combination that is not done, and write the tables anew after each.

        Runs are started in their order, as many at a time as the launch says, but all at once under Slurm, which has a
        queue of its own.

        A signal that stops a training (:data:`~ssm_train.data.workers.STOP_SIGNALS`) is passed on to the runs under
        way, and no other begins.

        Yields:
            What came of each run, as soon as it is known. A run that fails does not stop the others, unless the first
            two fail with the same error: the others would, too.

        Raises:
            StoppedError: there was such a signal, and all runs have ended.
            UserError: the first two runs failed with the same error, and others were not started.
            LockedError: another process makes runs in the folder. The two would count each other's runs as failed.
        """
        make_folder(self.folder)
        lock = folder_lock.acquire(self.folder)
        try:
            remove_leftovers(self.folder)
            for number in range(len(self.runs)):
                self._recall(number)  # once more: another command may have made runs in the meantime
            with self._signals.handled():
                yield from self._run_all()
        finally:
            folder_lock.release(lock)

    def _run_all(self) -> Iterator[Outcome]:
        processes = []
        if self.launch.at_once:
            processes = [RunProcess(own) for own in environments(self.launch.at_once, _gpus())]
        for process in processes:
            self._processes.put(process)
        pool = ThreadPoolExecutor(len(processes) or (len(self.runs) if self.launch.partition else 1))
        try:
            yield from (outcome for outcome in self.outcomes if outcome.status == "done")
            waiting = [number for number, outcome in enumerate(self.outcomes) if outcome.status != "done"]
            for future in as_completed([pool.submit(self._run_one, number) for number in waiting]):
                if (outcome := future.result()).status != "waiting":
                    yield outcome
            self._write()
            waiting = [number for number in waiting if self.outcomes[number].status == "waiting"]
            if self._signals.received and waiting:
                raise StoppedError(self._stopped())
            if self._alike and waiting:
                raise UserError(
                    f"the first runs failed with the same error, so that {len(waiting)} others were not started: "
                    f"{self._alike}"
                )
        finally:
            pool.shutdown(cancel_futures=True)
            for process in processes:
                process.end()

    def _stopped(self) -> str:
        done = sum(outcome.status == "done" for outcome in self.outcomes)
        saved = ", and those under way have saved their state" if self._saved else ""
        return (
            f"stopped by {signal.Signals(self._signals.received).name} with {done} of {len(self.outcomes)} runs done"
            f"{saved}: give the same command to go on"
        )

    def table(self) -> str:
        """The table in Markdown, see :func:`~ssm_train.apis.sweep.as_markdown`."""
        return self.settings.tables(self.outcomes, self.metric)[TABLE]

    def describe(self, outcome: Outcome) -> str:
        """What came of a run in a line."""
        best = "" if outcome.best is None else f", {self.metric} {outcome.last:.4g}, best {outcome.best:.4g}"
        return f"{outcome.folder} {outcome.status}{f': {outcome.error}' if outcome.error else best}"

    def warnings(self) -> list[str]:
        """Lines that tell every distinct warning of the runs once, see :func:`.run_warnings.described`."""
        return run_warnings.described([self.folder / outcome.folder / LOG for outcome in self.outcomes])

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

    def _loaded(self) -> tuple[list[Config], list[Outcome]]:
        """The config of every run, and what is known of it before. Runs that differ in their seed alone share both."""
        known: dict[tuple, tuple[Config, int, str]] = {}
        configs, outcomes = [], []
        for run in self.runs:
            shared = (item for item in run.settings.items() if item[0] != SEED or not is_seed(item[1]))
            key = run.config, *shared
            if key not in known:
                with self.settings.told_of(run):
                    cfg = load_config(run.config, self.settings.options_of(run.settings))
                    known[key] = cfg, count_parameters(cfg), digest(cfg)
            cfg, parameters, content = known[key]
            configs.append(cfg)
            self._contents.append(content)
            outcomes.append(Outcome(run.settings, run.folder, parameters=parameters))
        return configs, outcomes

    def _recall(self, number: int) -> None:
        """Take up what an earlier call noted of a run."""
        outcome = self.outcomes[number]
        folder = self.folder / outcome.folder
        if not (folder / RECORD).is_file():
            return
        known = read_record(folder / RECORD)
        before = known["given"]
        # Records of earlier versions have fewer entries.
        now = {name: value for name, value in self._identity_of(number).items() if name in before}
        if before != now:
            raise ConfigError(
                f"{folder} holds a run with other settings ({differences(before, now)}): give another --work-dir, or "
                "remove it"
            )
        outcome.status, outcome.seconds, outcome.error = known["status"], seconds_of(known, folder), known["error"]
        self._read_figures(number)

    def _identity_of(self, number: int) -> dict:
        run = self.runs[number]
        return self.settings.identity_of(run.settings, run.config) | {"content": self._contents[number]}

    def _read_figures(self, number: int) -> None:
        outcome = self.outcomes[number]
        folder = self.folder / outcome.folder
        read_curves(outcome, folder, self.configs[number])
        read_costs(outcome, folder)

    def _run_one(self, number: int) -> Outcome:
        if self._signals.received or self._alike:
            self.outcomes[number].status = "waiting"
            return self.outcomes[number]
        self._train(number)
        with self._writing:
            self._tried.append(self.outcomes[number])
            errors = {outcome.error for outcome in self._tried}
            none_done = all(outcome.status != "done" for outcome in self.outcomes)
            if none_done and len(self._tried) >= 2 and len(errors) == 1:
                self._alike = errors.pop()
            self._write()
        return self.outcomes[number]

    def _train(self, number: int) -> None:
        """Train one combination, and note what came of it."""
        outcome = self.outcomes[number]
        folder = self.folder / outcome.folder
        make_folder(folder)
        log = folder / LOG
        if outcome.status == "failed" or not log.is_file():
            write_text_atomically(log, "")
        printed = log.stat().st_size  # by a run that was stopped and goes on
        outcome.status, outcome.error = "waiting", ""
        self._note(number, began=time.time())  # or a run that is killed could go on with other settings
        made = self._in_kept_process(number, log) if self.launch.at_once else self._in_own_process(number, log)
        outcome.seconds += made.seconds
        stopped = self._signals.received and (made.died or made.status == cli.STOPPED)
        self._saved |= made.status == cli.STOPPED
        outcome.status = "waiting" if stopped else "failed" if made.status else "done"
        outcome.error = reason(made.status, log, printed) if outcome.status == "failed" else ""
        self._note(number)
        self._read_figures(number)

    def _note(self, number: int, began: float | None = None) -> None:
        """Write what is known of a run; ``began`` is when it was started, if it has not ended yet."""
        outcome = self.outcomes[number]
        record = {"given": self._identity_of(number), "status": outcome.status}
        record |= {"seconds": outcome.seconds, "error": outcome.error, "began": began}
        write_text_atomically(self.folder / outcome.folder / RECORD, json.dumps(record, indent=1))

    def _in_kept_process(self, number: int, log: Path) -> Made:
        run, settings = self.runs[number], self.settings
        options = tuple(settings.options_of(run.settings))
        training = Training(run.config, options, str(self.folder / run.folder), settings.amp, settings.compiled)
        process = self._processes.get()
        try:
            return process.train(training, log, self._signals.pass_on)
        finally:
            self._processes.put(process)

    def _in_own_process(self, number: int, log: Path) -> Made:
        run = self.runs[number]
        arguments = self.settings.arguments_of(run.settings, self.folder / run.folder)
        start = time.perf_counter()
        with log.open("ab") as file:  # a job of Slurm appends to it, too
            environment = dict(os.environ)
            command = self.launch.command(run.config, arguments)
            if self.launch.partition:
                environment |= {"SBATCH_WAIT": "1", "SBATCH_OUTPUT": str(log.resolve()).replace("%", "%%")}
            else:
                # A run ends with this process, even if that is killed: it then saves its state first.
                command = [*_WITH_PARENT, *command]
            status = self._signals.call(command, file, environment)
        return Made(status, time.perf_counter() - start, died=status < 0)

    def _write(self) -> None:
        """Write the tables."""
        for name, text in self.settings.tables(self.outcomes, self.metric).items():
            write_text_atomically(self.folder / name, text)


def _gpus() -> list[str]:
    """The GPUs of this machine that may be used, as ``CUDA_VISIBLE_DEVICES`` names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(n) for n in range(torch.cuda.device_count())] if given is None else [n for n in given.split(",") if n]
