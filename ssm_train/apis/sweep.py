"""Runs over a grid of settings: which there are, what came of each, and one table of all."""

import contextlib
import csv
import io
import itertools
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from mmengine.config import Config
from torch._subclasses.fake_tensor import FakeTensorMode

from ssm_core.errors import ConfigError
from ssm_train.apis.train import TrainingResult
from ssm_train.tasks import task_of

SEED = "randomness.seed"
SHORTHAND = {"seed": SEED}
Settings = dict[str, str]  # option to its value, as they are written on a command line


@dataclass
class Outcome:
    """What is known of a run.

    Attributes:
        settings: what distinguishes it from the others.
        folder: of the run, within the sweep's.
        status: how it stands.
        parameters: of the model.
        last: the metric at the last validation; None where there was none.
        best: its best value.
        best_after: the epochs or iterations after which it was reached.
        seconds: time spent, in all attempts together.
        error: why it failed.
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


def parse_grid(entries: Sequence[str]) -> dict[str, list[str]]:
    """``["seed=0,1", "model.backbone.dims=(8,16),(16,32)"]`` as option to values; brackets keep commas together.

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
    """Split at commas outside brackets."""
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
    """The shortest ends of dotted keys that still tell them apart."""
    names = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        names[key] = next(end for end in ends if sum(f".{other}".endswith(f".{end}") for other in keys) == 1)
    return names


def folder_names(runs: Sequence[Settings]) -> list[str]:
    """A folder for each run, such as ``d_state=1,seed=0``.

    Raises:
        ConfigError: two runs would share one.
    """
    names = short_names(list(runs[0]))
    folders = [
        ",".join(f"{names[key]}={re.sub(r'[^A-Za-z0-9.+_-]+', '-', value).strip('-')}" for key, value in run.items())
        for run in runs
    ]
    if len(set(folders)) < len(folders):
        raise ConfigError(f"values of the grid differ in punctuation only, and {folders[0]!r} cannot name two runs")
    return folders


def metric_of(cfg: Config) -> tuple[str, bool]:
    """The metric that a config chooses its best checkpoint by, and whether the lowest is best.

    Raises:
        ConfigError: it names none.
    """
    checkpoint = cfg.get("default_hooks", {}).get("checkpoint", {})
    metric = checkpoint.get("save_best")
    if not isinstance(metric, str) or metric == "auto":
        raise ConfigError(
            "the config does not say which metric to compare: set default_hooks.checkpoint.save_best to its name"
        )
    return metric, checkpoint.get("rule") == "less"


def count_parameters(cfg: Config) -> int:
    """Parameters of a config's model, which is built without contents unless it comes with weights."""
    task = task_of(cfg)
    with contextlib.nullcontext() if task.comes_with_weights else FakeTensorMode():
        return sum(parameter.numel() for parameter in task.build().parameters())


def read_curves(outcome: Outcome, folder: Path, cfg: Config) -> None:
    """Fill in the figures of a run from its ``curves.json``."""
    file = folder / "curves.json"
    if not file.is_file():
        return
    metric, lowest = metric_of(cfg)
    result = TrainingResult(folder, json.loads(file.read_text()))
    best = result.best(metric, "epoch" if "max_epochs" in cfg.train_cfg else "iter", lowest)
    outcome.last = result.last(metric)
    outcome.best, outcome.best_after = best or (None, None)


def as_json(outcomes: Sequence[Outcome], config: str, metric: str) -> str:
    """All runs, with what they share."""
    return json.dumps({"config": config, "metric": metric, "runs": [asdict(o) for o in outcomes]}, indent=1)


def as_csv(outcomes: Sequence[Outcome]) -> str:
    """A line a run."""
    text = io.StringIO()
    figures = [name for name in asdict(outcomes[0]) if name != "settings"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*outcomes[0].settings, *figures])
    for outcome in outcomes:
        writer.writerow([*outcome.settings.values(), *(getattr(outcome, name) for name in figures)])
    return text.getvalue()


def as_markdown(outcomes: Sequence[Outcome], config: str, metric: str) -> str:
    """A line for every combination, its seeds together as mean ± standard deviation; what failed is named below."""
    keys = [key for key in outcomes[0].settings if key != SEED]
    names = short_names(list(outcomes[0].settings))
    groups: dict[tuple[str, ...], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(tuple(outcome.settings[key] for key in keys), []).append(outcome)
    seeded = SEED in outcomes[0].settings
    titles = [*(names[key] for key in keys), *["seeds"] * seeded, f"{metric}, last", f"{metric}, best"]
    titles += ["parameters", "time"]
    lines = [f"# {config}", "", _row(titles), _row(["---"] * len(titles))]
    for values, members in groups.items():
        done = [o for o in members if o.status == "done"]
        count = f"{len(done)} of {len(members)}" if len(done) < len(members) else str(len(done))
        figures = [_spread([o.last for o in done]), _spread([o.best for o in done])]
        status = next((o.status for o in members if o.status != "done"), "") if not done else ""
        lines.append(
            _row(
                [
                    *values,
                    *[count] * seeded,
                    *([status, ""] if status else figures),
                    f"{members[0].parameters / 1e6:.3f} M" if members[0].parameters else "",
                    _duration(statistics.mean(o.seconds for o in done)) if done else "",
                ]
            )
        )
    if seeded:
        lines += ["", "Mean ± sample standard deviation over the seeds; time of one run."]
    lines += ["", *(f"- **{o.folder}** {o.status}: {o.error}" for o in outcomes if o.status == "failed")]
    return "\n".join(lines).rstrip() + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    spread = f" ± {statistics.stdev(known):.2g}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.4g}{spread}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
