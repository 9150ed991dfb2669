"""Drawing the learning curves of one or several runs from the files of :class:`ssm_train.runtime.hooks.CurvesHook`."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssm_core.visualization.figures import as_written

Curves = Mapping[str, Sequence[Mapping[str, float]]]  # the points of "train" and of "val"
Line = tuple[Sequence[float], Sequence[float]]  # x and y
Counter = Literal["iter", "epoch"]
_COLOURS = 10  # number of colours in matplotlib's cycle
_INSIDE = 6  # a legend with at most this many names fits into a panel without hiding the lines
_COUNTERS = {"iter": "iteration", "epoch": "epoch"}
_LABELS = {"loss": "training loss", "lr": "learning rate", "top1": "held-out top-1, %"}


def draw_curves(
    axes: Axes,
    runs: Mapping[str, Line],
    x_label: str,
    y_label: str,
) -> None:
    """Draw one line for each run.

    From the eleventh run on, where colours repeat, lines are dashed. The legend of many runs stands beside the panel.

    Args:
        axes: panel to draw in.
        runs: x and y values of each run, by its name.
        x_label: label of the x axis, with its unit.
        y_label: label of the y axis, with its unit.
    """
    for i, (name, (x, y)) in enumerate(runs.items()):
        style = "-" if i < _COLOURS else "--"
        axes.plot(x, y, style, label=as_written(name), linewidth=1.5, marker="o" if len(x) == 1 else None)
    axes.set_xlabel(x_label)
    axes.set_ylabel(as_written(y_label))
    axes.grid(alpha=0.3)
    if len(runs) > _INSIDE:
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    else:
        axes.legend(frameon=False)


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
    """Moving average: the mean of ``points`` values around each value.

    Near the ends it takes those that are there: the first and the last mean are of half of the window.

    Args:
        values: any numbers.
        points: width of the window, rounded down to an odd number; 1 leaves the values as they are.
    """
    half = max(points - 1, 0) // 2
    return [fmean(values[max(i - half, 0) : i + half + 1]) for i in range(len(values))]


def draw_runs(
    runs: Mapping[str, Curves],
    metrics: Sequence[str] | None = None,
    counter: Counter = "iter",
    smoothing: int = 1,
    start: float = 0,
) -> Figure:
    """Draw a figure with a panel for every metric, and in it a line for every run that has the metric.

    Args:
        runs: curves of each run, by its name.
        metrics: the metrics to draw; all but the learning rate if left out.
        counter: what x counts.
        smoothing: number of points that the training loss is averaged over, see :func:`smooth`.
        start: value of ``counter`` to start from. Earlier points are left out, so that the axes fit the later ones.

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
    figure = Figure(figsize=(5 * columns, 4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for metric, axes in zip(chosen, grid, strict=False):
        lines = {name: line(curves, metric, counter) for name, curves in runs.items()}
        if metric == "loss":
            lines = {name: (x, smooth(y, smoothing)) for name, (x, y) in lines.items()}
        draw_curves(
            axes, {name: xy for name, xy in lines.items() if xy[0]}, _COUNTERS[counter], _LABELS.get(metric, metric)
        )
    for axes in grid[len(chosen) :]:
        axes.set_axis_off()
    return figure


def draw_run(curves: Curves) -> Figure:
    """Draw a figure for one run: a panel with the training loss, and a panel with all validation metrics."""
    held_out = {"val": curves["val"]}
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_curves(left, {"training": line(curves, "loss")}, "iteration", "loss")
    draw_curves(right, {name: line(held_out, name) for name in metrics_of({"": held_out})}, "iteration", "validation")
    return figure
