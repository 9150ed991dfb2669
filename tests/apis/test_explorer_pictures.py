"""Tests of the pictures of the explorer, by what they contain: marks, edges, colours and windows at known places."""

import re

import matplotlib
import networkx as nx
import numpy as np
import pytest
import torch
from PIL import Image
from small_explorer import explorer, write_checkpoints, write_photos

from ssm_core.layers import record_scans
from ssm_core.visualization import style
from ssm_train.apis.explore import pictures
from ssm_train.apis.explore.answers import View, quadtree_blocks, quadtree_parts, tree_blocks, tree_parts
from ssm_train.data.images import read_image, to_area

PIXEL = (300, 500)
TREE, QUADTREE = "stages.0.blocks.0.mixer.scan", "stages.0.blocks.0.mixer.scan"


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    """The explorer, a photo, and what the first models of both families chose for it, recorded without the explorer."""
    pages = explorer(write_checkpoints(tmp_path_factory.mktemp("models")))
    path = write_photos(tmp_path_factory.mktemp("photos")) / "cat.png"
    chosen = []
    for opened in (pages.models[0], pages.models[3]):
        image = to_area(read_image(path), opened.normalization.side)
        with record_scans(opened.network) as scans, torch.no_grad():
            opened.network(opened.normalization.inputs(image))
        chosen.append(scans)
    return pages, pages.look(path), chosen


def place(looked, number, pixel=PIXEL):
    _, photo, _ = looked
    return pictures.place_of(photo, photo.seen[number], pixel)


def centres(picture, height, width):
    """The middle of every token in pixels of a picture: rows [height], columns [width]."""
    rows, columns = picture.shape[:2]
    return (np.arange(height) + 0.5) * rows / height, (np.arange(width) + 0.5) * columns / width


def colourful(picture):
    """How far the channels of every pixel differ. The photo beneath is grey."""
    return np.ptp(picture.astype(int), axis=2)


def at(values, row, column):
    """The largest value within a pixel of a place."""
    i, j = round(row), round(column)
    return values[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].max()


def test_the_cross_is_where_the_pixel_is(looked):
    _, photo, _ = looked
    assert photo.shown.shape == (522, 785, 3)
    picture = np.asarray(pictures.marked(photo, PIXEL)).astype(int)
    assert picture.shape == photo.shown.shape
    rows, columns = np.nonzero(abs(picture - np.round(photo.shown * 255)).max(-1) > 2)
    assert (rows.mean(), columns.mean()) == pytest.approx(PIXEL, abs=1)
    assert np.ptp(rows) < 30
    assert (picture[PIXEL] == 0).all()


def test_every_edge_of_the_tree_is_drawn_and_no_other(looked):
    """Between two neighbouring tokens the picture is coloured if the tree joins them, and grey if it does not."""
    picture = np.asarray(pictures.tree(place(looked, 0), TREE))
    grown = looked[2][0][TREE]
    height, width, parent = grown.height, grown.width, grown.tree.parent[0].tolist()
    joined = {frozenset(edge) for edge in enumerate(parent)}
    colours, (rows, columns) = colourful(picture), centres(picture, height, width)
    wrong, edges = [], 0
    for row, column in np.ndindex(height, width):
        for other_row, other_column in ((row, column + 1), (row + 1, column)):
            if other_row == height or other_column == width:
                continue
            edge = frozenset((row * width + column, other_row * width + other_column))
            middle = (rows[row] + rows[other_row]) / 2, (columns[column] + columns[other_column]) / 2
            if np.hypot(middle[0] - PIXEL[0], middle[1] - PIXEL[1]) < 20:
                continue  # the cross
            edges += edge in joined
            wrong += [] if (at(colours, *middle) > 20) == (edge in joined) else [edge]
    assert not wrong
    assert edges > 0.9 * (height * width - 1)


def test_the_way_to_the_root_is_the_shortest_in_the_tree(looked):
    picture = np.asarray(pictures.tree(place(looked, 0), TREE)).astype(int)
    grown = looked[2][0][TREE]
    height, width, parent = grown.height, grown.width, grown.tree.parent[0].tolist()
    rows, columns = centres(picture, height, width)
    token = int(abs(rows - PIXEL[0]).argmin() * width + abs(columns - PIXEL[1]).argmin())
    (root,) = (vertex for vertex, other in enumerate(parent) if vertex == other)
    way = nx.shortest_path(nx.Graph(list(enumerate(parent))), token, root)
    blue = abs(picture - np.array(matplotlib.colors.to_rgb(pictures.WAY)) * 255).max(-1) < 40
    # Without the root, which has a dot, and the token, which has the cross.
    found = {
        int(i * width + j) for i, j in np.ndindex(height, width) if at(blue, rows[i], columns[j])
    } - {token, root}  # fmt: skip
    assert found == set(way) - {token, root}
    assert len(way) > 5


@pytest.mark.parametrize("contrast", [1.0, 0.2])
def test_affinities_have_the_colours_of_the_bar(looked, contrast):
    """The colours are those of the scale over the grey photo, at 75 % opacity."""
    here = place(looked, 0)
    grown = looked[1].seen[0].trees[TREE]
    token = pictures.token_at(here.pixel, grown.height, grown.width, here.seen.image.shape)
    graph = nx.Graph()
    for child, other in enumerate(grown.tree.parent[0].tolist()):
        graph.add_edge(child, other, weight=grown.weight[0, child].double().numpy())
    paths = nx.single_source_shortest_path(graph, token)
    length, ones = grown.height * grown.width, np.ones(grown.weight.shape[2])
    along_tree = [
        np.mean(np.prod([graph.edges[e]["weight"] for e in nx.utils.pairwise(paths[i])] + [ones], axis=0))
        for i in range(length)
    ]
    weights = grown.weight[0].double().numpy()
    along_rows = [weights[min(i, token) + 1 : max(i, token) + 1].prod(0).mean() for i in range(length)]
    scale = matplotlib.colormaps[style.HEAT]
    grey = Image.fromarray((here.seen.image * 255).round().astype(np.uint8)).convert("L")
    beneath = np.asarray(grey.resize(here.size[::-1], Image.Resampling.NEAREST)).astype(float)
    for picture, values in zip(pictures.affinities(here, TREE, contrast), (along_tree, along_rows), strict=True):
        picture = np.asarray(picture).astype(float)
        colours = scale(np.array(values).reshape(grown.height, grown.width) ** contrast)[..., :3]
        rows, columns = centres(picture, grown.height, grown.width)
        inner = [(i, j) for i, j in np.ndindex(grown.height, grown.width) if i * grown.width + j != token]
        for i, j in inner[::7]:
            part = tuple(slice(round(middle) - 2, round(middle) + 3) for middle in (rows[i], columns[j]))
            expected = 255 * 0.75 * colours[i, j] + 0.25 * beneath[part].mean()
            assert abs(picture[part].mean((0, 1)) - expected).max() < 6, (i, j)


def test_the_labels_of_the_colour_bar_stand_at_their_values():
    for contrast in (1.0, 0.5, 0.1):
        bar = pictures.affinity_bar(contrast)
        labels = [(float(x), float(y)) for x, y in re.findall(r'left: ([\d.]+)%">([\d.]+)<', bar)]
        assert (labels[0], labels[-1]) == ((0.0, 0.0), (100.0, 1.0))
        for share, value in labels:
            assert share / 100 == pytest.approx(value**contrast, abs=1e-3)
        assert min(np.diff([share for share, _ in labels])) >= 7
        colours = re.findall(r"#[0-9a-f]{6}", bar)
        scale = matplotlib.colormaps[style.HEAT]
        assert (colours[0], colours[-1]) == (matplotlib.colors.to_hex(scale(0.0)), matplotlib.colors.to_hex(scale(1.0)))
        assert len(colours) > 20
    assert "0.001" in pictures.affinity_bar(0.1)


@pytest.mark.parametrize("pixel", [(100, 150), (100, 600), (450, 150), (450, 600)])
def test_windows_at_every_depth(looked, pixel):
    """The window with the pixel is yellow: at depth 0 it is the map, at depth 1 a quadrant, at depth 2 maybe less."""
    here, chosen = place(looked, 3, pixel), looked[2][1][QUADTREE]
    assert chosen.shift == (0, 0)
    choice = int(chosen.choice[0])
    rows, columns = looked[1].shown.shape[:2]
    own = 2 * (pixel[0] > rows // 2) + (pixel[1] > columns // 2)
    for depth in range(3):
        picture = np.asarray(pictures.quadrants(here, QUADTREE, depth)).astype(int)
        yellow = picture[..., 0] - picture[..., 2] > 60
        for i, j in np.ndindex(8, 8):
            row, column = (i + 0.5) * rows / 8, (j + 0.5) * columns / 8
            quadrant = 2 * (i >= 4) + (j >= 4)
            inside = depth == 0 or quadrant == own
            if depth == 2 and quadrant == own == choice:  # the smaller window has a quarter of the quadrant
                inside = (i // 2, j // 2) == (int(4 * pixel[0] / rows), int(4 * pixel[1] / columns))
            assert yellow[round(row), round(column)] == inside, (depth, i, j)
        lines = abs(picture - np.array(matplotlib.colors.to_rgb(style.CHOSEN)) * 255).max(-1) < 60
        assert lines.any() == (depth == 2), "the quadrant that is split has lines of another colour"


def test_scores_are_highest_in_the_chosen_quadrant(looked):
    chosen = looked[2][1][QUADTREE]
    score = chosen.score[0].numpy()
    height, width = (side // 2 for side in score.shape)
    means = [score[i : i + height, j : j + width].mean() for i in (0, height) for j in (0, width)]
    assert int(np.argmax(means)) == int(chosen.choice[0])
    assert pictures.scores(place(looked, 3), QUADTREE) is not None


def test_the_orders_of_scans(looked):
    """The quadtree scan is dark where it begins and bright where it ends; a scan row by row gets brighter downwards."""
    raster = np.asarray(pictures.raster(place(looked, 0), TREE)).astype(int)
    colours = colourful(raster)
    grown = looked[2][0][TREE]
    rows, columns = centres(raster, grown.height, grown.width)
    between = (columns[3] + columns[4]) / 2
    for row in rows:
        assert at(colours, row, between) > 40, "there is a line through every row of tokens"
    middle = (rows[4] + rows[5]) / 2
    assert np.median(colours[round(middle)]) < 20, "between two rows the photo is grey but for the jump"
    first, last = (raster[round(row), round(between)] for row in (rows[0], rows[-1]))
    assert first.sum() < last.sum()
    _, photo, _ = looked
    assert sorted(photo.seen[3].orders[QUADTREE]) == list(range(len(photo.seen[3].orders[QUADTREE])))


def test_every_corner_can_be_clicked(looked):
    pages, photo, _ = looked
    rows, columns = photo.shown.shape[:2]
    view = View(1.0, 0, 1, "stage 4, block 1", 3, 4, "stage 2, block 1")
    for pixel in ((0, 0), (rows - 1, columns - 1)):
        drawn = tree_parts(pages, photo, pixel, view) | quadtree_parts(pages, photo, pixel, view)
        assert None not in drawn.values()
        small = tree_blocks(pages, photo, pixel, view) | quadtree_blocks(pages, photo, pixel, view)
        assert [len(found) for found in small.values()] == [5, 5, 2]


def test_two_models_are_drawn_side_by_side(looked):
    pages, photo, _ = looked
    view = View(1.0, 0, 1, "stage 1, block 1", 3, None, "stage 1, block 1")
    drawn = tree_parts(pages, photo, PIXEL, view)
    here = pictures.place_of(photo, pages.see(photo, 1), PIXEL)
    assert np.array_equal(drawn["other_tree"], pictures.tree(here, TREE))
    assert not np.array_equal(drawn["other_tree"], drawn["tree"])
    assert "second.pth" in drawn["other_tree_words"]
    alone = tree_parts(pages, photo, PIXEL, view._replace(other_tree=None))
    assert alone["other_tree"] is None
    assert np.array_equal(alone["tree"], drawn["tree"])
