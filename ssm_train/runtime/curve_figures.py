"""Drawing the learning curves of one or several runs from the files of :class:`ssm_train.runtime.hooks.CurvesHook`."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssm_core.visualization import style
from ssm_core.visualization.figures import as_written

Curves = Mapping[str, Sequence[Mapping[str, float]]]  # the points of "train" and of "val"
Line = tuple[Sequence[float], Sequence[float]]  # x and y
Counter = Literal["iter", "epoch"]
_STYLES = "-", "--", ":", "-."  # of lines, each for as many as there are colours
_SHAPE = 0.75  # height of a panel divided by its width
_INSIDE = 6  # a legend with at most this many names fits into a panel without hiding the lines
_COUNTERS = {"iter": "iteration", "epoch": "epoch"}
_LABELS = {"loss": "training loss", "lr": "learning rate", "top1": "held-out top-1, %"}


def draw_curves(
    axes: Axes,
    runs: Mapping[str, Line],
    x_label: str,
    y_label: str,
    raw: Mapping[str, Line] | None = None,
) -> None:
    """Draw one line for each run.

    A run has its colour by its place in the mapping, also if those before it have no values. Where colours repeat,
    lines are dashed. The legend of many runs stands beside the panel.

    Args:
        axes: panel to draw in.
        runs: x and y values of each run, by its name. Those without values are left out.
        x_label: label of the x axis, with its unit.
        y_label: label of the y axis, with its unit.
        raw: values that were smoothed, by the name of the run. They are drawn in a pale colour behind the lines.
    """
    for i, (name, (x, y)) in enumerate(runs.items()):
        if not len(x):
            continue
        rounds, number = divmod(i, len(style.CYCLE))
        look = {"color": style.CYCLE[number], "linestyle": _STYLES[rounds % len(_STYLES)]}
        if raw and name in raw:
            axes.plot(*raw[name], **look, label=f"_{name}", linewidth=0.5, alpha=0.3, zorder=1)
        marker = "o" if len(x) == 1 else None
        axes.plot(x, y, **look, label=as_written(name), linewidth=1.1, marker=marker, markersize=3)
    axes.set_xlabel(x_label, fontsize=style.TITLE_SIZE)
    axes.set_ylabel(as_written(y_label), fontsize=style.TITLE_SIZE)
    axes.tick_params(labelsize=style.SMALL_SIZE, length=2, width=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_linewidth(0.5)
    axes.grid(alpha=0.25, linewidth=0.4)
    axes.set_axisbelow(True)
    beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if len(runs) > _INSIDE else {}
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=style.SMALL_SIZE, handlelength=1.6, **beside)


def metrics_of(runs: Mapping[str, Curves]) -> list[str]:
    """The metrics of which some run has points: ``loss``, ``lr``, then the validation metrics by name."""
    found = {name for curves in runs.values() for part in curves.values() for point in part for name in point}
    first = [name for name in ("loss", "lr") if name in found]
    return first + sorted(found - set(first) - set(_COUNTERS))


def line(curves: Curves, metric: str, counter: Counter = "iter") -> Line:
    """The points of one metric, from the training part if it has them, else from the validation part.

    Args:
        curves: the curves of a run.
        metric: name of the metric.
        counter: what x counts.

    Returns:
        x and y values, both empty if the run lacks the metric.
    """
    for part in ("train", "val"):
        points = [point for point in curves.get(part, ()) if metric in point]
        if points:
            return [point[counter] for point in points], [point[metric] for point in points]
    return [], []


def smooth(values: Sequence[float], points: int) -> list[float]:
    """Exponential smoothing in both directions.

    The weight of a value at a distance of d places is a^d, where a = (points − 1) / (points + 1). This is the decay of
    pandas' ``ewm(span=points)``. The weights are divided by their sum, so that the ends have no bias. Even the first
    and the last result have no more noise than a mean of ``points`` values.

    Args:
        values: any numbers. Those that are not finite are left out of the means, and stay what they are.
        points: the span; 1 leaves the values as they are.
    """
    decay = (points - 1) / (points + 1)
    there = [math.isfinite(value) for value in values]
    numbers = [value if known else 0.0 for value, known in zip(values, there, strict=True)]
    sums, weights = (_both_ways(row, decay) for row in (numbers, list(map(float, there))))
    rows = zip(values, there, sums, weights, strict=True)
    return [total / weight if known else value for value, known, total, weight in rows]


def _both_ways(values: Sequence[float], decay: float) -> list[float]:
    """At every place i the sum of decay^|i − j| · values[j] over all places j."""

    def ahead(row: Iterable[float]) -> list[float]:
        return list(accumulate(row, lambda total, value: decay * total + value))

    back = ahead(reversed(values))[::-1]
    return [a + b - value for a, b, value in zip(ahead(values), back, values, strict=True)]


def draw_runs(
    runs: Mapping[str, Curves],
    metrics: Sequence[str] | None = None,
    counter: Counter = "iter",
    smoothing: int = 1,
    start: float = 0,
    width: float = style.PAGE,
    title: str = "",
) -> Figure:
    """Draw a figure with a panel for every metric, and in it a line for every run that has the metric.

    Args:
        runs: curves of each run, by its name.
        metrics: the metrics to draw; all but the learning rate if left out.
        counter: what x counts.
        smoothing: number of points that the training loss is averaged over, see :func:`smooth`. Above 1, the points
            themselves are drawn behind the line.
        start: value of ``counter`` to start from. Earlier points are left out, so that the axes fit the later ones.
        width: of the figure in inches.
        title: a line above the panels.

    Raises:
        ValueError: no run has one of the metrics, or no run has any points.
    """
    runs = {
        name: {part: [point for point in points if point[counter] >= start] for part, points in curves.items()}
        for name, curves in runs.items()
    }
    known = metrics_of(runs)
    chosen = [name for name in known if name != "lr"] if metrics is None else list(metrics)
    missing = [name for name in chosen if name not in known]
    if missing or not chosen:
        have = f"they have {', '.join(known)}" if known else "they have no points at all"
        raise ValueError(f"no run has {missing[0] if missing else 'a curve'}: {have}")
    columns = min(len(chosen), 3)
    rows = -(-len(chosen) // columns)
    figure = _figure(width, rows, columns)
    if title:
        figure.suptitle(as_written(title), fontsize=style.TITLE_SIZE)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for metric, axes in zip(chosen, grid, strict=False):
        lines = {name: line(curves, metric, counter) for name, curves in runs.items()}
        raw: Mapping[str, Line] = {}
        if metric == "loss" and smoothing > 1:
            raw, lines = lines, {name: (x, smooth(y, smoothing)) for name, (x, y) in lines.items()}
        draw_curves(axes, lines, _COUNTERS[counter], _LABELS.get(metric, metric), raw)
    for axes in grid[len(chosen) :]:
        axes.set_axis_off()
    return figure


def _figure(width: float, rows: int, columns: int) -> Figure:
    return Figure(figsize=(width, rows * _SHAPE * width / columns), layout="constrained")


def draw_run(curves: Curves) -> Figure:
    """Draw a figure for one run: a panel with the training loss, and a panel with all validation metrics."""
    held_out = {"val": curves["val"]}
    figure = _figure(style.PAGE, 1, 2)
    left, right = figure.subplots(1, 2)
    draw_curves(left, {"training": line(curves, "loss")}, "iteration", "loss")
    draw_curves(right, {name: line(held_out, name) for name in metrics_of({"": held_out})}, "iteration", "validation")
    return figure
