"""Compares the windows and paths in QuadMamba's pictures with the operator's order and with the scans themselves."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure

from quadtree_ssm import QuadMamba
from quadtree_ssm.modules import ChosenQuadrant, QuadtreeScan, ReleasedQuadtreeScan
from quadtree_ssm.ops import quadtree_order
from quadtree_ssm.visualization import (
    SHADE,
    draw_order,
    draw_quadrants,
    quadtree_figure,
    token_order,
    unrolled,
    window_of,
    windows,
)
from ssm_core.layers import record_scans
from ssm_core.visualization import draw_choice, token_at

MAPS = [(8, 8, (1, 1)), (7, 9, (-2, 3)), (5, 6, (0, 0)), (2, 3, (0, 1))]


def tokens_in(window, height, width, shift):
    """Return the tokens in the drawn rectangles of a window of the unrolled map."""
    return {
        row * width + column
        for top, left, h, w in unrolled(window.bounds, height, width, shift)
        for row in range(top, top + h)
        for column in range(left, left + w)
    }


@pytest.mark.parametrize(("height", "width", "shift"), MAPS)
@pytest.mark.parametrize("levels", [0, 1, 2])
@pytest.mark.parametrize("choice", [0, 3])
def test_drawn_windows_are_visited_one_after_another(choice, levels, height, width, shift):
    """Each part of the operator's order that belongs to a window has exactly the tokens in its drawn rectangles."""
    order = quadtree_order(torch.tensor([choice]), height, width, levels=levels, shift=shift)[0].tolist()
    chosen = ChosenQuadrant(torch.tensor([choice]), None, None, height, width, shift, levels)
    found = windows(height, width, choice, levels)
    assert len(found) == {0: 1, 1: 4, 2: 7}[levels]
    for window in found:
        inside = tokens_in(window, height, width, shift)
        step, order = order[: len(inside)], order[len(inside) :]
        assert set(step) == inside
        assert all(window_of(token, chosen) == window for token in inside)
    assert not order


def test_there_is_no_window_of_a_token_that_is_not_there():
    chosen = ChosenQuadrant(torch.tensor([1]), None, None, 4, 4, (0, 0), 2)
    with pytest.raises(ValueError, match="no token 16 in a map of 4 × 4"):
        window_of(16, chosen)


@pytest.mark.parametrize(("height", "width", "shift"), MAPS)
def test_the_order_is_the_operators(height, width, shift):
    scan, choice = QuadtreeScan(4, 1, 1), torch.tensor([2, 0, 1])
    chosen = ChosenQuadrant(choice, None, None, height, width, shift, 2)
    assert torch.equal(token_order(scan, chosen), quadtree_order(choice, height, width, shift=shift))


@pytest.mark.parametrize(("height", "width", "shift"), MAPS)
def test_the_order_of_released_weights(height, width, shift):
    """Each token goes through the released scan alone. Along the drawn order, the places in its sequence never fall."""
    scan, choice = ReleasedQuadtreeScan(4, 1, 1), torch.tensor([1])
    sequences = []
    scan.scan_along = lambda x, order: sequences.append(x) or x
    impulses = torch.eye(height * width).unsqueeze(-1).expand(-1, -1, 4)
    scan.scan(impulses, choice.expand(len(impulses)), None, height, width, shift)
    place = sequences[0][..., 0].argmax(1)
    order = token_order(scan, ChosenQuadrant(choice, None, None, height, width, shift, 2))[0]
    assert sorted(order.tolist()) == list(range(height * width))
    assert (place[order].diff() >= 0).all()


@pytest.fixture(scope="module")
def recorded():
    """Return an image, a model, and what the model's scans chose on the image."""
    torch.manual_seed(0)
    model = QuadMamba(depths=(2, 2, 1, 1), dims=(8, 8, 8, 8), num_classes=0).eval()
    for scan in (module for module in model.modules() if isinstance(module, QuadtreeScan)):
        torch.nn.init.normal_(scan.predictor.fc4.weight)  # makes the scores differ
    image = torch.rand(64, 96, 3)
    with record_scans(model) as scans, torch.no_grad():
        model(image.permute(2, 0, 1)[None])
    return image.numpy(), model, scans


def test_the_drawn_way_is_the_order(recorded):
    image, model, scans = recorded
    name, chosen = list(scans.items())[1]
    assert chosen.shift != (0, 0)
    order = quadtree_order(chosen.choice, chosen.height, chosen.width, shift=chosen.shift)[0].tolist()
    axes = Figure().subplots()
    draw_order(axes, image, token_order(model.get_submodule(name), chosen)[0].numpy(), chosen.height, chosen.width)
    (way,) = (c for c in axes.collections if isinstance(c, LineCollection))
    ends = np.array(way.get_segments())
    drawn = [[token_at((y, x), chosen.height, chosen.width, image.shape) for x, y in pair] for pair in ends]
    assert drawn == list(map(list, pairwise(order)))
    assert way.get_array().tolist() == list(range(len(order) - 1))
    x, y = axes.lines[0].get_xydata()[0]
    assert token_at((y, x), chosen.height, chosen.width, image.shape) == order[0]


def drawn_windows(axes):
    """Return the frames and the filled windows of a panel, without the dark shade behind the lines."""
    return [c for c in axes.collections if isinstance(c, PatchCollection) and c.get_gid() != SHADE]


def test_drawn_quadrants_and_scores(recorded):
    image, _, scans = recorded
    for chosen in scans.values():
        axes = Figure().subplots()
        token = 5 * chosen.width + 3
        draw_quadrants(axes, image, chosen, token=token)
        np.testing.assert_array_equal(axes.images[-1].get_array(), chosen.score[0].numpy())
        framed, filled = [], []
        for patches in drawn_windows(axes):
            inside = set()
            for path in patches.get_paths():
                (left, top), (right, bottom) = path.vertices.min(0) + 0.5, path.vertices.max(0) + 0.5
                rows = range(round(top * chosen.height / 64), round(bottom * chosen.height / 64))
                columns = range(round(left * chosen.width / 96), round(right * chosen.width / 96))
                inside |= {row * chosen.width + column for row in rows for column in columns}
            (filled if patches.get_facecolor().size else framed).append((inside, patches.get_edgecolor()))
        expected = windows(chosen.height, chosen.width, int(chosen.choice), 2)
        assert [inside for inside, _ in framed] == [
            tokens_in(w, chosen.height, chosen.width, chosen.shift) for w in expected
        ]
        # The chosen quadrant's windows have their own colour. Their mean score is the best.
        red = [inside for inside, colour in framed if not np.allclose(colour, 1)]
        assert len(red) == 4
        scores = chosen.score[0].flatten().numpy()
        others = [scores[list(inside)].mean() for inside, _ in framed if inside not in red]
        assert scores[list(set.union(*red))].mean() > max(others)
        ((marked, _),) = filled
        assert token in marked


def test_the_figure_has_a_column_for_every_block(recorded):
    image, model, scans = recorded
    figure = quadtree_figure(image, model, scans, "whose weights")
    image_panel, *panels = figure.axes[:1] + figure.axes[3:-2]  # without the keys and the colour bars
    np.testing.assert_array_equal(image_panel.images[0].get_array(), image)
    axes = np.reshape(panels, (4, 3))
    assert figure.get_suptitle() == "whose weights"
    assert [column[0].get_title() for column in axes] == [
        f"stage {s}, block {b}" for s, b in ((1, 1), (1, 2), (2, 1), (2, 2))
    ]
    assert [column[1].get_title() for column in axes] == ["", "shift (2, 2)", "", "shift (-1, -1)"]
    assert axes[3][2].get_title() == "8 × 12 tokens"
    for column, chosen in zip(axes, scans.values(), strict=True):
        score = chosen.score[0].numpy()
        np.testing.assert_array_equal(column[0].images[-1].get_array(), score)
        assert column[0].images[-1].get_clim() == pytest.approx(np.percentile(score, (1, 99)))
    ends = [[text.get_text() for text in bar.get_yticklabels()] for bar in figure.axes[-2:]]
    assert ends == [["lowest\nscore", "highest\nscore"], ["start", "end"]]


def test_one_block_has_large_panels(recorded):
    image, model, scans = recorded
    name = list(scans)[1]
    figure = quadtree_figure(image, model, {name: scans[name]}, "whose weights")
    shown, scores, quadrants, way, *bars = figure.axes
    assert [axes.get_title() for axes in figure.axes[:4]] == [
        "image", "stage 1, block 2", "shift (2, 2)", "16 × 24 tokens"
    ]  # fmt: skip
    assert len(bars) == 2
    np.testing.assert_array_equal(shown.images[0].get_array(), image)
    np.testing.assert_array_equal(scores.images[-1].get_array(), scans[name].score[0].numpy())
    assert len(drawn_windows(quadrants)) == 7
    assert len(way.collections[0].get_segments()) == 16 * 24 - 1
    all_blocks = quadtree_figure(image, model, scans).axes[0]
    assert shown.bbox.width > 2 * all_blocks.bbox.width


def test_fixed_choices_and_fewer_levels():
    """In these cases there are no scores, but the partition is drawn."""
    for arguments, count in (({"choice": 2}, 7), ({"quadtree_levels": 1}, 4), ({"quadtree_levels": 0}, 1)):
        model = QuadMamba(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), num_classes=0, **arguments).eval()
        with record_scans(model) as scans, torch.no_grad():
            model(torch.rand(1, 3, 32, 32))
        axes = Figure().subplots()
        draw_choice(next(iter(scans.values())), axes, np.zeros((32, 32)))
        assert len(axes.images) == 1
        assert len(drawn_windows(axes)) == count
        quadtree_figure(np.zeros((32, 32)), model, scans)
