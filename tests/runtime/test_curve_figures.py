"""Tests of the figures of learning curves: the drawn lines go through the logged points."""

import math
import random
from statistics import pstdev

import pytest

from ssm_train.runtime.curve_figures import draw_run, draw_runs, smooth

RUNS = {
    "one": {
        "train": [{"iter": i, "epoch": 1 + i // 20, "lr": 0.1 / i, "loss": 9.0 / i} for i in range(10, 60, 10)],
        "val": [{"iter": 20, "epoch": 1, "top1": 50.0}, {"iter": 40, "epoch": 2, "top1": 70.0, "top5": 90.0}],
    },
    "two": {"train": [{"iter": 10, "epoch": 1, "lr": 0.1, "loss": 3.0}], "val": []},
}


def lines(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def test_a_panel_for_every_metric_and_a_line_for_every_run():
    loss, top1, top5 = draw_runs(RUNS).axes
    assert lines(loss) == {
        "one": [[10, 0.9], [20, 0.45], [30, 0.3], [40, 0.225], [50, 0.18]],
        "two": [[10, 3.0]],
    }
    assert lines(top1) == {"one": [[20, 50], [40, 70]]}
    assert lines(top5) == {"one": [[40, 90]]}
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("iteration", "training loss")
    assert top1.get_ylabel() == "held-out top-1, %"


def test_names_that_matplotlib_would_read_as_formulas_or_could_not_draw():
    names = (r"$\no$", r"a\$b$", "not utf-8: \udcff")
    figure = draw_runs({name: {"train": [], "val": [{"iter": 1, "epoch": 1, r"$\no$": 1.0}]} for name in names})
    figure.canvas.draw()
    axes = figure.axes[0]
    texts = [axes.yaxis.label, *axes.get_legend().get_texts()]
    drawn = [text.get_text().replace(r"\$", "$") for text in texts]
    assert drawn == [r"$\no$", r"$\no$", r"a\$b$", "not utf-8: ?"]


def test_epochs_chosen_metrics_and_smoothing():
    top1, rate, loss = draw_runs(RUNS, ["top1", "lr", "loss"], "epoch", smoothing=3).axes
    assert lines(top1) == {"one": [[1, 50], [2, 70]]}
    assert lines(rate)["two"] == [[1, 0.1]]
    # With a span of 3 each step away halves the weight.
    values = [0.9, 0.45, 0.3, 0.225, 0.18]
    weights = [[0.5 ** abs(i - j) for j in range(5)] for i in range(5)]
    means = [sum(w * v for w, v in zip(row, values, strict=True)) / sum(row) for row in weights]
    assert [y for _, y in lines(loss)["one"]] == pytest.approx(means)
    assert [y for _, y in lines(loss)["_one"]] == values, "the points themselves are drawn, too"
    pale, line = loss.lines[:2]
    assert pale.get_color() == line.get_color()
    assert pale.get_alpha() < 0.5
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["one", "two"]


def test_the_beginning_left_out():
    loss, top1, _ = draw_runs(RUNS, start=30).axes
    assert lines(loss) == {"one": [[30, 0.3], [40, 0.225], [50, 0.18]]}
    assert lines(top1) == {"one": [[40, 70]]}
    assert lines(draw_runs(RUNS, ["top1"], "epoch", start=2).axes[0]) == {"one": [[2, 70]]}
    with pytest.raises(ValueError, match="they have no points at all"):
        draw_runs(RUNS, start=51)


@pytest.mark.needs("pandas")
@pytest.mark.parametrize("points", [1, 2, 3, 5, 99])
def test_smoothing_is_pandas_ewm_in_both_directions(points):
    import pandas

    values = pandas.Series([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0])
    decay = 1 - 2 / (points + 1)

    def ahead(series):
        """The weighted sum of the values before and at every place: pandas' mean times the sum of its weights."""
        weights = pandas.Series([sum(decay**k for k in range(i + 1)) for i in range(len(series))])
        return series.reset_index(drop=True).ewm(span=points).mean() * weights, weights

    (before, their), (after, others) = ahead(values), ahead(values[::-1])
    expected = (before + after[::-1].to_numpy() - values) / (their + others[::-1].to_numpy() - 1)
    assert smooth(values.to_list(), points) == pytest.approx(expected.to_list())
    assert smooth([], points) == []


def test_no_end_of_a_smoothed_curve_is_a_single_value():
    """The noise at the ends is that of a mean of as many points. A moving average that shrinks there has all of it."""
    draw = random.Random(0)
    for points in (5, 15):
        curves = [smooth([draw.gauss(0, 1) for _ in range(200)], points) for _ in range(2000)]
        for end in (0, -1):
            assert pstdev(curve[end] for curve in curves) == pytest.approx(points**-0.5, rel=0.06)
        assert pstdev(curve[100] for curve in curves) < points**-0.5
    assert smooth([7.0] * 9, 5) == pytest.approx([7.0] * 9), "no end is biased"


def test_losses_that_are_not_finite_are_left_out_of_the_means():
    nan, inf = math.nan, math.inf
    found = smooth([1.0, nan, 3.0, inf, 5.0], 3)
    assert math.isnan(found[1])
    assert found[3] == inf
    weights = [[0.5 ** abs(i - j) for j in (0, 2, 4)] for i in (0, 2, 4)]
    means = [sum(w * v for w, v in zip(row, (1, 3, 5), strict=True)) / sum(row) for row in weights]
    assert [found[i] for i in (0, 2, 4)] == pytest.approx(means)


def test_what_is_not_there():
    with pytest.raises(ValueError, match="no run has mIoU: they have loss, lr, top1, top5"):
        draw_runs(RUNS, ["mIoU"])
    with pytest.raises(ValueError, match="they have no points at all"):
        draw_runs({"empty": {"train": [], "val": []}})


def test_the_picture_of_a_run():
    """A run draws this picture at its end. The loss is on the left and all validation metrics are on the right."""
    left, right = draw_run(RUNS["one"]).axes
    assert lines(left)["training"][-1] == [50, 0.18]
    assert lines(right) == {"top1": [[20, 50], [40, 70]], "top5": [[40, 90]]}


def test_twelve_metrics_can_be_told_apart():
    names = [f"coco/mAP_{i}" for i in range(12)]
    figure = draw_run(
        {"train": [{"iter": 1, "loss": 1.0}], "val": [{"iter": i, **dict.fromkeys(names, i)} for i in (1, 2)]}
    )
    axes = figure.axes[1]
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 12
    figure.draw_without_rendering()
    assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1
    assert axes.get_legend().get_window_extent().x1 <= figure.bbox.x1
