"""A study: some models, of each of which one thing at a time is changed, all under the same seeds, and compared.

A file says what is trained (docs/study.md). Every cell of a table has a run for every seed. Runs of one seed see the
same data in the same order, so that cells are compared seed by seed.
"""

import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

from ssm_core.errors import ConfigError
from ssm_train.apis.sweep import SEED, SEEDS, Outcome, Run, Settings, as_csv, duration, folder_name, row, spread
from ssm_train.apis.sweep_runs import TABLE, SweepSettings
from ssm_train.runtime.config_files import find_study
from ssm_train.runtime.strict_json import strict_json

CONFIDENCE = 0.95
_KEYS = {"seeds", "tables"}
_MERGE = "tag:yaml.org,2002:merge"  # the tag of a key <<


@dataclass(frozen=True)
class Cell:
    """A setting that is compared.

    Attributes:
        table: name of its table.
        name: its own.
        config: the config file.
        settings: what is changed in it.
    """

    table: str
    name: str
    config: str
    settings: Settings


@dataclass(frozen=True)
class Study:
    """What a file of a study says.

    Attributes:
        seeds: of every cell.
        cells: in the order of the file. The first one of a table is what the others of the table are compared with.
    """

    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]


@dataclass
class Comparison:
    """A cell beside the first one of its table, seed by seed.

    Attributes:
        pairs: number of seeds under which both were trained.
        difference: the mean of the differences.
        low: lower end of the confidence interval of that mean, by Student's t.
        high: upper end.
        p: of the paired t-test: how likely a mean at least as far from 0 is if the cells do not differ. If all
            differences are the same and not 0, it is NaN, and so are the ends of the interval: how far they would
            spread is then unknown.
        adjusted_p: the same after Benjamini and Hochberg (1995), over all comparisons of the table.
    """

    pairs: int
    difference: float
    low: float
    high: float
    p: float
    adjusted_p: float = math.nan


@dataclass(frozen=True)
class StudySettings(SweepSettings):
    """What the runs of a study are; ``config`` is the file of the study, and there is no grid."""

    grid: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the runs go."""
        return self.work_dir or Path("work_dirs") / f"study_{self.name}"

    @cached_property
    def study(self) -> Study:
        """What the file says.

        Raises:
            ConfigError: see :func:`read_study`.
        """
        return read_study(find_study(self.config))

    def runs(self) -> list[Run]:
        """All runs: those of the first seed, then those of the second, and so on.

        A study that is stopped early then has some seeds of all cells. Cells of several tables with the same config and
        settings share their runs.

        Raises:
            ConfigError: two cells differ, but their runs would have the same folder.
        """
        found: dict[str, tuple[Run, Cell]] = {}
        for seed in self.study.seeds:
            for cell in self.study.cells:
                run = self.run_of(cell, seed)
                known, other = found.setdefault(run.folder, (run, cell))
                if _same(known) != _same(run):
                    raise ConfigError(
                        f"{self.config}: the cells {other.name!r} and {cell.name!r} cannot share the folder "
                        f"{run.folder!r}: their configs have one name, or their values differ in punctuation only"
                    )
        return [run for run, _ in found.values()]

    @contextmanager
    def told_of(self, run: Run) -> Iterator[None]:
        """A context whose errors about a config name the file, the table and the cell."""
        try:
            yield
        except ConfigError as error:
            seeds = self.study.seeds
            cell = next(c for c in self.study.cells if run in [self.run_of(c, seed) for seed in seeds])
            said = str(error).removeprefix("--cfg-options ")
            raise ConfigError(f"{self.config}, cell {cell.name!r} of the table {cell.table!r}: {said}") from error

    def run_of(self, cell: Cell, seed: int) -> Run:
        """The run of a cell under a seed."""
        settings = {**cell.settings, SEED: str(seed)}
        return Run(cell.config, settings, f"{Path(cell.config).stem},{folder_name(settings, self._keys)}")

    @cached_property
    def _keys(self) -> list[str]:
        """Everything that a cell of the study changes, so that no two keys have one short name."""
        return list(dict.fromkeys(key for cell in self.study.cells for key in (*cell.settings, SEED)))

    def tables(self, outcomes: Sequence[Outcome], metric: str) -> dict[str, str]:
        """The contents of the files that tell what came of all runs, see :meth:`.SweepSettings.tables`."""
        by_folder = {outcome.folder: outcome for outcome in outcomes}
        found, cells_of = [], {outcome.folder: [] for outcome in outcomes}
        for cell in self.study.cells:
            found.append([by_folder[self.run_of(cell, seed).folder] for seed in self.study.seeds])
            for outcome in found[-1]:
                cells_of[outcome.folder].append(f"{cell.table}: {cell.name}")
        compared = compare(self.study.cells, found)
        return {
            TABLE: as_markdown(self.name, self.study.cells, found, compared, metric),
            "table.csv": as_csv(outcomes, cells_of),
            "table.json": as_json(self.study, found, compared, metric),
        }


def _same(run: Run) -> tuple[str, Settings]:
    """What two runs have in common that are one, however their config is named."""
    return run.config.removesuffix(".py"), run.settings


def read_study(path: Path) -> Study:
    """Read the file of a study.

    Args:
        path: a file in YAML, with ``seeds`` and ``tables``. A table has a ``config`` and ``cells``: by its name, each
            cell has what it changes in the config, and perhaps a ``config`` of its own. Configs are named as on a
            command line, or relative to the folder of this file.

    Raises:
        ConfigError: there is no such file, or it has another form; the message says where.
    """
    try:
        content = yaml.load(path.read_text(), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the study {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"the study {path} cannot be read as YAML: {_in_words(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # of values that the YAML names a type of
        raise ConfigError(f"the study {path} cannot be read as YAML: {type(error).__name__}: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"the study {path} cannot be read as YAML: it is nested too deeply") from error
    if not isinstance(content, dict) or set(content) != _KEYS:
        found = f", and has {', '.join(map(_in_line, content)) or 'none'}" if isinstance(content, dict) else ""
        raise ConfigError(f"the study {path} has to have the two keys seeds and tables{found}")
    seeds, tables = content["seeds"], content["tables"]
    if not _is_list_of_seeds(seeds):
        raise ConfigError(
            f"{path}: seeds has to be a list of different whole numbers from 0 to {SEEDS - 1}, not {seeds!r}"
        )
    if not isinstance(tables, dict) or not tables:
        raise ConfigError(f"{path}: tables has to have tables by their names, not {tables!r}")
    _check_names(path, tables, "tables")
    cells = [cell for name, table in tables.items() for cell in _cells_of(path, _in_line(name), table)]
    return Study(tuple(seeds), tuple(cells))


def _is_list_of_seeds(seeds: Any) -> bool:
    whole = isinstance(seeds, list) and seeds and all(type(seed) is int and 0 <= seed < SEEDS for seed in seeds)
    return bool(whole) and len(set(seeds)) == len(seeds)


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, except that a key that is there twice is an error. PyYAML keeps the last one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [child for child, _ in node.value if isinstance(child, yaml.ScalarNode)]
        # By their values: keys that are written differently can be one to Python, such as 1 and 1.0.
        values = [key.value if key.tag == _MERGE else self.construct_object(key) for key in keys]
        for number, (key, value) in enumerate(zip(keys, values, strict=True)):
            if value in values[:number]:
                first = keys[values.index(value)].value
                problem = (
                    f"{first!r} is there twice" if first == key.value else f"{first!r} and {key.value!r} are the same"
                )
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def _in_words(error: yaml.YAMLError) -> str:
    """What is wrong with a text in YAML, and in which line."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if not problem or mark is None:
        return " ".join(str(error).split())
    return f"{problem} in line {mark.line + 1}, column {mark.column + 1}"


def _in_line(name: Any) -> str:
    """A name as it is written: in one line, and in letters that a file can have."""
    return " ".join(str(name).encode(errors="replace").decode().split())


def _check_names(path: Path, named: Mapping[Any, Any], what: str) -> None:
    """Raise if two names are written alike, such as 1 and "1"."""
    names = [_in_line(name) for name in named]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{path}: two {what} are called {name!r}, and nobody could tell them apart")


def _cells_of(path: Path, name: str, table: Any) -> list[Cell]:
    keys = set(table) if isinstance(table, dict) else set()
    if wrong := keys - {"config", "cells"}:
        key = _in_line(min(wrong, key=str))
        raise ConfigError(f"{path}: the table {name!r} has the key {key!r}, and can have cells and config only")
    if not isinstance(table, dict) or not isinstance(table.get("cells"), dict):
        raise ConfigError(f"{path}: the table {name!r} has to have cells, by their names")
    if not table["cells"]:
        raise ConfigError(f"{path}: the table {name!r} has no cells")
    _check_names(path, table["cells"], f"cells of the table {name!r}")
    found = []
    for cell, changes in table["cells"].items():
        settings = {} if changes is None else changes
        if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
            raise ConfigError(f"{path}: the cell {cell!r} has KEY: VALUE for what it changes, not {changes!r}")
        config = settings.get("config", table.get("config"))
        if not isinstance(config, str):
            raise ConfigError(f"{path}: neither the cell {cell!r} nor its table {name!r} names a config")
        if SEED in settings or "seed" in settings:
            raise ConfigError(f"{path}: the cell {cell!r} sets a seed, and all cells have the seeds of the study")
        texts = {key: value if isinstance(value, str) else repr(value) for key, value in settings.items()}
        texts.pop("config", None)
        beside = str(path.parent / config)  # a config of one's own, next to the file of the study
        config = beside if os.path.isfile(beside) else config
        found.append(Cell(name, _in_line(cell), config, texts))
    return found


def compare(cells: Sequence[Cell], outcomes: Sequence[Sequence[Outcome]]) -> list[Comparison | None]:
    """Compare every cell with the first one of its table, by the metric at the last validation.

    The test is Student's t-test of paired samples. Wilcoxon's signed-rank test makes no assumption about the
    distribution of the differences, but of five pairs its p is never below 0.06, whatever they are.

    Args:
        cells: all cells.
        outcomes: of each cell its runs, in the order of the seeds.

    Returns:
        A comparison for every cell; None for the first ones, and where fewer than two seeds were trained in both.
    """
    first: dict[str, Sequence[Outcome]] = {}
    compared: list[Comparison | None] = []
    for cell, own in zip(cells, outcomes, strict=True):
        base = first.setdefault(cell.table, own)
        compared.append(None if base is own else paired(_values(base), _values(own)))
    for table in first:
        found = [c for cell, c in zip(cells, compared, strict=True) if cell.table == table and c is not None]
        known = [c for c in found if not math.isnan(c.p)]
        for comparison, p in zip(known, stats.false_discovery_control([c.p for c in known]), strict=True):
            comparison.adjusted_p = float(p)
    return compared


def paired(base: Sequence[float | None], other: Sequence[float | None]) -> Comparison | None:
    """Compare two cells by their values under the same seeds.

    Args:
        base: the values of one, in the order of the seeds; None where there is none.
        other: the values of the other.

    Returns:
        The differences ``other - base``; None if fewer than two seeds have both values.
    """
    pairs = [(a, b) for a, b in zip(base, other, strict=True) if a is not None and b is not None]
    if len(pairs) < 2:
        return None
    before, after = np.array(pairs).T
    differences = after - before
    mean = float(differences.mean())
    if not differences.any():
        return Comparison(len(pairs), 0.0, 0.0, 0.0, 1.0)
    if np.ptp(differences) <= 1e-9 * np.abs([before, after]).max():
        # No spread but that of rounding. The test would divide by it, and call the most certain what is mostly coarse:
        # the accuracies of few images, under few seeds.
        return Comparison(len(pairs), mean, math.nan, math.nan, math.nan)
    result = stats.ttest_rel(after, before)
    interval = result.confidence_interval(CONFIDENCE)
    return Comparison(len(pairs), mean, float(interval.low), float(interval.high), float(result.pvalue))


def _values(outcomes: Sequence[Outcome]) -> list[float | None]:
    """The metric of every run that is done and has a finite one, otherwise None."""
    known = ((o.last if o.status == "done" else None) for o in outcomes)
    return [None if value is None or not math.isfinite(value) else value for value in known]


def as_markdown(
    name: str,
    cells: Sequence[Cell],
    outcomes: Sequence[Sequence[Outcome]],
    compared: Sequence[Comparison | None],
    metric: str,
) -> str:
    """The tables of a study in Markdown. Failed runs are listed below them.

    Args:
        name: of the study, for the heading.
        cells: all cells.
        outcomes: of each cell its runs.
        compared: see :func:`compare`.
        metric: name of the metric that is compared.
    """
    titles = ["cell", "seeds", metric, "difference", "95 % interval", "p", "adjusted p"]
    titles += ["parameters", "ms an iteration", "time of a run", "memory, MiB"]
    lines, table = [f"# {name}"], None
    for cell, own, comparison in zip(cells, outcomes, compared, strict=True):
        if cell.table != table:
            table = cell.table
            lines += ["", f"## {table}", "", row(titles), row(["---"] * len(titles))]
        lines.append(row([cell.name, *_figures(own), *_words(comparison), *_costs(own)]))
    lines += [
        "",
        f"{metric} at the last validation: mean ± sample standard deviation over the seeds. The difference is to the "
        "first cell of the table, seed by seed, with Student's interval and the p of the paired t-test; adjusted by "
        "Benjamini and Hochberg over the table. A dash says that the difference is the same under all seeds. Where "
        "several runs were made at a time, times are those beside the others.",
    ]
    failed = {outcome.folder: outcome for own in outcomes for outcome in own if outcome.status == "failed"}
    lines += ["", *(f"- **{folder}** failed: {outcome.error}" for folder, outcome in failed.items())]
    return "\n".join(lines).rstrip() + "\n"


def _figures(outcomes: Sequence[Outcome]) -> list[str]:
    done = sum(outcome.status == "done" for outcome in outcomes)
    count = str(done) if done == len(outcomes) else f"{done} of {len(outcomes)}"
    return [count, spread(_values(outcomes))]


def _words(comparison: Comparison | None) -> list[str]:
    if comparison is None:
        return [""] * 4
    if math.isnan(comparison.p):
        return [f"{comparison.difference:+.3g}", *["–"] * 3]
    ends = f"{comparison.low:+.3g} … {comparison.high:+.3g}"
    return [f"{comparison.difference:+.3g}", ends, f"{comparison.p:.2g}", f"{comparison.adjusted_p:.2g}"]


def _costs(outcomes: Sequence[Outcome]) -> list[str]:
    done = [outcome for outcome in outcomes if outcome.status == "done"]
    times = [outcome.milliseconds for outcome in done if outcome.milliseconds is not None]
    memory = [outcome.memory for outcome in done if outcome.memory is not None]
    parameters = outcomes[0].parameters
    return [
        f"{parameters / 1e6:.3f} M" if parameters else "",
        f"{statistics.mean(times):.1f}" if times else "",
        duration(statistics.mean(outcome.seconds for outcome in done)) if done else "",
        str(max(memory)) if memory else "–",
    ]


def as_json(
    study: Study, outcomes: Sequence[Sequence[Outcome]], compared: Sequence[Comparison | None], metric: str
) -> str:
    """All figures of a study, by cell and seed."""
    cells: list[Mapping[str, Any]] = [
        {
            **asdict(cell),
            "runs": [{"seed": seed, **asdict(o)} for seed, o in zip(study.seeds, own, strict=True)],
            "comparison": None if comparison is None else asdict(comparison),
        }
        for cell, own, comparison in zip(study.cells, outcomes, compared, strict=True)
    ]
    return strict_json({"metric": metric, "seeds": list(study.seeds), "cells": cells}, indent=1)
