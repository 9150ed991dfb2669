"""One picture of throughput and accuracy, from the figures of a study and of throughput.py.

    tree-ssm ablate studies/fashion-mnist.yaml --work-dir work_dirs/study
    python tools/benchmarks/throughput.py --study configs/studies/fashion-mnist.yaml --table "models of one size" \\
        --size 64 --json throughput.json
    python tools/benchmarks/accuracy.py work_dirs/study/table.json throughput.json --out accuracy.svg

Every cell of the table that was timed is a point: its median rate, and the mean of its metric over the seeds. Bars are
the standard deviation over the seeds, and the distance between the quartiles of the rate.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ssm_core.errors import DataError
from ssm_train.apis import cli
from ssm_train.commands.visualize import SUFFIXES

if TYPE_CHECKING:  # imported when it is needed, so that --help stays fast
    from matplotlib.figure import Figure

NAMES = {"top1": "top-1, %", "mIoU": "mIoU, %"}


class Point(NamedTuple):
    """A model of the picture."""

    name: str
    rate: float  # images a second
    rate_spread: float
    value: float
    value_spread: float  # 0 of a single seed


def points_of(study: dict, throughput: dict, table: str) -> Iterator[Point]:
    """The points of a table's cells that were timed and trained.

    Args:
        study: content of a study's ``table.json``.
        throughput: content of the file that ``throughput.py --json`` writes.
        table: name of the table.
    """
    first = throughput["rows"][0]["size"]
    rates = {row["model"]: row for row in throughput["rows"] if row["size"] == first}
    for cell in study["cells"]:
        values = [run["last"] for run in cell["runs"] if run["status"] == "done" and run["last"] is not None]
        if cell["table"] == table and cell["name"] in rates and values:
            row, spread = rates[cell["name"]], statistics.stdev(values) if len(values) > 1 else 0.0
            yield Point(
                cell["name"], row["images_per_second"], row["spread_images_per_second"], statistics.mean(values), spread
            )


def draw(points: list[Point], metric: str, conditions: str) -> "Figure":
    """Draw the points with their names and bars.

    Args:
        points: of the picture.
        metric: name of the metric.
        conditions: how the rates were measured, in a line.
    """
    from matplotlib.figure import Figure

    from ssm_core.visualization import style

    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=style.CYCLE)
    for point in points:
        bars = axes.errorbar(point.rate, point.value, point.value_spread, point.rate_spread / 2, fmt="o", capsize=3)
        colour = bars.lines[0].get_color()
        axes.annotate(
            point.name, (point.rate, point.value), (7, 6), textcoords="offset points", color=colour, fontsize="medium"
        )
    axes.margins(0.15)
    axes.set_xlabel(f"images a second ({conditions})")
    axes.set_ylabel(NAMES.get(metric, metric))
    axes.grid(alpha=0.3)
    return figure


def main(argv: list[str] | None = None) -> list[Point]:
    """Draw, print the points, and return them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="table.json of a study")
    parser.add_argument("throughput", type=Path, help="what throughput.py --json wrote")
    parser.add_argument("--table", default="models of one size", help="table of the study (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="the picture: a .pdf, .png, .svg or .webp file")
    options = parser.parse_args(argv)
    if options.out.suffix not in SUFFIXES:
        parser.error(f"--out is a file {', '.join(SUFFIXES)}, not {options.out}")
    # Imported after parsing so that --help stays fast.
    from ssm_train.apis.visualize import write_figure
    from ssm_train.runtime.files import check_file

    check_file(options.out)
    study, throughput = (read(path) for path in (options.study, options.throughput))
    try:
        points = list(points_of(study, throughput, options.table))
        settings = throughput["settings"]
        batch, size = (throughput["rows"][0][name] for name in ("batch", "size"))
        conditions = f"{settings['mode']}, batch {batch}, {size}×{size}, {settings['dtype']}"
        metric = study["metric"]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(
            f"{options.study} is no table.json of a study, or {options.throughput} is no file of throughput.py --json"
        ) from error
    if not points:
        raise DataError(f"no cell of the table {options.table!r} was both trained and timed")
    figure = draw(points, metric, conditions)
    write_figure(figure, options.out)
    for point in points:
        print(
            f"{point.name:24} {point.rate:9.0f} ± {point.rate_spread:6.0f} img/s   {metric} {point.value:.2f} ± "
            f"{point.value_spread:.2f}"
        )
    return points


def read(path: Path) -> dict:
    """Read a file of JSON.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error


if __name__ == "__main__":
    sys.exit(cli.run(main))
