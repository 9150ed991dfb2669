"""A grid of settings: its combinations, what is known of the run of each, and one table of all."""

import contextlib
import csv
import hashlib
import io
import itertools
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from mmengine.config import Config

from ssm_core.errors import ConfigError
from ssm_core.flops import without_values
from ssm_train.apis.train import TrainingResult
from ssm_train.runtime import curve_files
from ssm_train.runtime.config import require_model
from ssm_train.runtime.curve_files import CURVES
from ssm_train.runtime.strict_json import strict_json
from ssm_train.tasks import task_of

SEED = "randomness.seed"
SEEDS = 2**32  # that numpy and torch take: 0 to one less
SHORTHAND = {"seed": SEED}
_LONGEST = 190  # letters of a folder's name: Linux has 255, and a study puts the name of the config before it
Settings = dict[str, str]  # key of the config to its value, both as a command line has them


@dataclass
class Outcome:
    """What is known of a run.

    Attributes:
        settings: what distinguishes the run from the others.
        folder: of the run, within the sweep's.
        status: whether the run has still to be made, or how it ended.
        parameters: number of the model's parameters.
        last: the metric at the last validation; None if there was no validation.
        best: the best value of the metric.
        best_after: the epochs or iterations after which the best value was reached.
        seconds: time spent, in all attempts together.
        error: why the run failed; empty if it did not.
        milliseconds: of an iteration, the median over the lines of the log; None if there were none.
        memory: the largest memory of tensors on a GPU in training, in MiB; None without a GPU.
    """

    settings: Settings
    folder: str
    status: Literal["waiting", "done", "failed"] = "waiting"
    parameters: int | None = None
    last: float | None = None
    best: float | None = None
    best_after: int | None = None
    seconds: float = 0.0
    error: str = ""
    milliseconds: float | None = None
    memory: int | None = None


class Run(NamedTuple):
    """A run that is to be made.

    Attributes:
        config: the config file.
        settings: what is changed in it, and distinguishes the run from others of this config.
        folder: of the run, within that of all runs.
    """

    config: str
    settings: Settings
    folder: str


def parse_grid(entries: Sequence[str]) -> dict[str, list[str]]:
    """Read a grid from its command line.

    Args:
        entries: such as ``["seed=0,1", "model.backbone.dims=(8,16),(16,32)"]``. A comma within brackets is part of a
            value; ``seed`` stands for ``randomness.seed``.

    Returns:
        Every key with its values.

    Raises:
        ConfigError: an entry is not ``KEY=A,B,C``, or names a key or a value twice.
    """
    grid: dict[str, list[str]] = {}
    for entry in entries:
        key, equals, text = entry.partition("=")
        values = split_values(text)
        if not equals or not key or not all(values):
            raise ConfigError(f"--grid takes KEY=A,B,C, not {entry!r}")
        key = SHORTHAND.get(key, key)
        if key in grid:
            raise ConfigError(f"--grid names {key} twice: give all its values at once")
        if len(set(values)) < len(values):
            raise ConfigError(f"--grid {entry}: a value is there twice")
        grid[key] = values
    return grid


def split_values(text: str) -> list[str]:
    """Split a text at its commas, except those within brackets."""
    values, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            values.append("")
        else:
            values[-1] += letter
    return [value.strip() for value in values]


def combinations(grid: Mapping[str, Sequence[str]]) -> list[Settings]:
    """Every combination of a grid's values, the last key changing fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """For each dotted key its shortest end that no other key has."""
    names = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        names[key] = next(end for end in ends if sum(f".{other}".endswith(f".{end}") for other in keys) == 1)
    return names


def folder_names(runs: Sequence[Settings]) -> list[str]:
    """The name of a folder for each run, such as ``d_state=1,seed=0``.

    Raises:
        ConfigError: two runs would have the same name.
    """
    folders = [folder_name(run) for run in runs]
    if len(set(folders)) < len(folders):
        raise ConfigError(f"values of the grid differ in punctuation only, and {folders[0]!r} cannot name two runs")
    return folders


def folder_name(settings: Settings, keys: Sequence[str] = ()) -> str:
    """The name of a folder for a run with these settings, such as ``d_state=1,seed=0``.

    Args:
        settings: of the run.
        keys: all keys that runs beside it change, from which its own are told apart; by default its own alone.

    Returns:
        The name. Of one that is longer than files of Linux may have, a hash is the end.
    """
    names = short_names(list(keys or settings))
    values = {key: re.sub(r"[^A-Za-z0-9.+_-]+", "-", value).strip("-") for key, value in settings.items()}
    name = ",".join(f"{names[key]}={value}" for key, value in values.items())
    if len(name) <= _LONGEST:
        return name
    ending = hashlib.sha256(repr(settings).encode()).hexdigest()[:16]
    return f"{name[: _LONGEST - len(ending) - 1]}-{ending}"


def metric_of(cfg: Config) -> tuple[str, bool]:
    """The metric that a config chooses its best checkpoint by, and whether the lowest value is the best.

    Raises:
        ConfigError: the config names no metric.
    """
    checkpoint = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    metric = checkpoint.get("save_best")
    if not isinstance(metric, str) or metric == "auto":
        raise ConfigError(
            "the config does not say which metric to compare: set default_hooks.checkpoint.save_best to its name"
        )
    return metric, checkpoint.get("rule") == "less"


def is_seed(text: str) -> bool:
    """Whether a text is a seed that numpy and torch take."""
    return text.isascii() and text.isdigit() and int(text) < SEEDS


def count_parameters(cfg: Config) -> int:
    """Number of the parameters of a config's model. It is built without memory, where a model allows for that.

    Raises:
        ConfigError: the config has no model, or it cannot be built.
    """
    require_model(cfg)
    task = task_of(cfg)
    with contextlib.nullcontext() if task.comes_with_weights or task.needs_values else without_values():
        return sum(parameter.numel() for parameter in task.build().parameters())


def read_curves(outcome: Outcome, folder: Path, cfg: Config) -> None:
    """Fill in the figures of a run from its ``curves.json``, if there is one.

    Args:
        outcome: of the run; its figures are set.
        folder: the run's folder.
        cfg: the run's config, which names the metric.

    Raises:
        DataError: the file is damaged.
    """
    if not (folder / CURVES).exists():
        return
    metric, lowest = metric_of(cfg)
    result = TrainingResult(folder, curve_files.read_curves(folder))
    best = result.best(metric, "epoch" if "max_epochs" in cfg.train_cfg else "iter", lowest)
    outcome.last = result.last(metric)
    outcome.best, outcome.best_after = best or (None, None)


def read_costs(outcome: Outcome, folder: Path) -> None:
    """Fill in the time of an iteration and the memory of a run from the scalars that it logged, if there are any.

    Args:
        outcome: of the run; its costs are set.
        folder: the run's folder.
    """
    lines: list[dict] = []
    for path in sorted(folder.glob("*/vis_data/scalars.json")):
        for line in path.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # the last line of a run that was killed may not be whole
                lines.append(json.loads(line))
    times = [line["train/time"] for line in lines if "train/time" in line]
    memories = [line["memory"] for line in lines if "memory" in line]
    outcome.milliseconds = 1e3 * statistics.median(times) if times else None
    outcome.memory = max(memories, default=None)


def as_json(outcomes: Sequence[Outcome], config: str, metric: str) -> str:
    """All runs as JSON, with the name of the config and the metric that they share."""
    return strict_json({"config": config, "metric": metric, "runs": [asdict(o) for o in outcomes]}, indent=1)


def as_csv(outcomes: Sequence[Outcome], cells: Mapping[str, Sequence[str]] | None = None) -> str:
    """A line for every run: its settings, then everything that is known of it.

    Args:
        outcomes: all runs.
        cells: the cells of a study that each run belongs to, by the run's folder; None outside of studies.
    """
    text = io.StringIO()
    figures = [name for name in asdict(outcomes[0]) if name != "settings"]
    keys = list(dict.fromkeys(key for outcome in outcomes for key in outcome.settings))
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(["cells"] if cells else []), *keys, *figures])
    for outcome in outcomes:
        named = ["; ".join(cells[outcome.folder])] if cells else []
        settings = (outcome.settings.get(key, "") for key in keys)
        writer.writerow([*named, *settings, *(getattr(outcome, name) for name in figures)])
    return text.getvalue()


def as_markdown(outcomes: Sequence[Outcome], config: str, metric: str) -> str:
    """The table in Markdown, with a line for every combination. Failed runs are listed below it.

    Runs that differ in their seed alone share a line, which has the mean and the sample standard deviation.

    Args:
        outcomes: all runs.
        config: name of the config, for the heading.
        metric: name of the metric that is compared.
    """
    keys = [key for key in outcomes[0].settings if key != SEED]
    names = short_names(list(outcomes[0].settings))
    groups: dict[tuple[str, ...], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(tuple(outcome.settings[key] for key in keys), []).append(outcome)
    seeded = SEED in outcomes[0].settings
    titles = [*(names[key] for key in keys), *["seeds"] * seeded, f"{metric}, last", f"{metric}, best"]
    titles += ["parameters", "time"]
    lines = [f"# {config}", "", row(titles), row(["---"] * len(titles))]
    for values, members in groups.items():
        done = [o for o in members if o.status == "done"]
        count = f"{len(done)} of {len(members)}" if len(done) < len(members) else str(len(done))
        figures = [spread([o.last for o in done]), spread([o.best for o in done])]
        status = next((o.status for o in members if o.status != "done"), "") if not done else ""
        lines.append(
            row(
                [
                    *values,
                    *[count] * seeded,
                    *([status, ""] if status else figures),
                    f"{members[0].parameters / 1e6:.3f} M" if members[0].parameters else "",
                    duration(statistics.mean(o.seconds for o in done)) if done else "",
                ]
            )
        )
    if seeded:
        lines += ["", "Mean ± sample standard deviation over the seeds; time of one run."]
    lines += ["", *(f"- **{o.folder}** {o.status}: {o.error}" for o in outcomes if o.status == "failed")]
    return "\n".join(lines).rstrip() + "\n"


def row(cells: Sequence[str]) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def spread(values: Sequence[float | None]) -> str:
    """Mean and sample standard deviation of the values that are known."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    deviation = f" ± {statistics.stdev(known):.2g}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.4g}{deviation}"


def duration(seconds: float) -> str:
    """A time in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
