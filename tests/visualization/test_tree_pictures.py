"""Compares MambaTree's affinities with products along networkx's paths, and its drawings with the grown trees."""

from decimal import Decimal

import networkx as nx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from ssm_core.layers import record_scans
from ssm_core.visualization import COLUMN, PAGE, draw_choice, scaled_pixel, token_at
from tree_ssm import MambaTreeV
from tree_ssm.modules import TreeScan
from tree_ssm.ops import minimum_spanning_tree
from tree_ssm.visualization import (
    affinity_figure,
    affinity_maps,
    depths,
    draw_tree,
    raster_affinity,
    record_trees,
    subtree_sizes,
    tree_affinity,
    tree_figure,
)

HEIGHT, WIDTH = 5, 7
LENGTH = HEIGHT * WIDTH


@pytest.fixture
def grown():
    """Return trees of a random grid, rooted in its middle, and weights of two samples with four channels."""
    torch.manual_seed(0)
    edges = (HEIGHT - 1) * WIDTH + HEIGHT * (WIDTH - 1)
    tree = minimum_spanning_tree(torch.rand(2, edges, dtype=torch.float64), HEIGHT, WIDTH, root=17)
    return tree, torch.rand(2, LENGTH, 4, dtype=torch.float64)


def path_products(parent, weight, vertex):
    """Return for every vertex the product of the weights along networkx's path, averaged over the channels."""
    graph = nx.Graph()
    for child, other in enumerate(parent):
        if child != other:
            graph.add_edge(child, other, weight=weight[child])
    paths = nx.single_source_shortest_path(graph, vertex)
    products = [
        np.prod([graph.edges[edge]["weight"] for edge in nx.utils.pairwise(paths[i])] + [np.ones(4)], axis=0)
        for i in range(len(parent))
    ]
    return np.mean(products, axis=1)


@pytest.mark.parametrize("vertex", [0, 17, 23, LENGTH - 1])
def test_affinity_is_the_product_along_the_path(grown, vertex):
    tree, weight = grown
    affinity = tree_affinity(weight, tree, vertex)
    for sample in range(2):
        expected = path_products(tree.parent[sample].tolist(), weight[sample].numpy(), vertex)
        np.testing.assert_allclose(affinity[sample], expected, rtol=1e-12)


@pytest.mark.parametrize("vertex", [0, 8, LENGTH - 1])
def test_raster_affinity_is_the_product_along_the_rows(grown, vertex):
    _, weight = grown
    affinity = raster_affinity(weight, vertex)
    for other in range(LENGTH):
        first, last = sorted((vertex, other))
        expected = weight[:, first + 1 : last + 1].prod(1).mean(-1)
        torch.testing.assert_close(affinity[:, other], expected, rtol=1e-12, atol=0)


def test_affinity_of_no_vertex(grown):
    tree, weight = grown
    with pytest.raises(ValueError, match="no vertex 35 among 0 … 34"):
        tree_affinity(weight, tree, LENGTH)


@pytest.mark.parametrize("d_state", [1, 3])
def test_recorded_weights_are_those_of_the_scan(d_state):
    """The recorded weights equal Ā, computed here from Δ step by step."""
    torch.manual_seed(0)
    scan = TreeScan(6, d_state, 2).double()
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    with record_trees(scan) as trees, record_scans(scan) as chosen:
        scan(x)
    (recorded,) = trees.values()
    assert torch.equal(recorded.tree.parent, next(iter(chosen.values())).tree.parent)
    assert (recorded.height, recorded.width) == (3, 4)
    step = F.linear(F.linear(x.flatten(1, 2), scan.x_proj.weight[:2]), scan.dt_weight[0])
    delta = F.softplus(step + scan.dt_bias[0])
    expected = [torch.exp(-delta * scan.A_log[0, :, n].exp()) for n in range(d_state)]
    torch.testing.assert_close(recorded.weight, torch.cat(expected, -1), rtol=1e-12, atol=0)
    assert not recorded.weight.requires_grad
    assert not scan._forward_hooks


@pytest.fixture(scope="module")
def recorded():
    """Return an image, and the trees that a model grew on it."""
    torch.manual_seed(0)
    model = MambaTreeV(depths=(1, 2, 1, 1), dims=(8, 8, 8, 8), num_classes=0).eval()
    image = torch.rand(48, 80, 3)
    with record_trees(model) as trees, torch.no_grad():
        model(image.permute(2, 0, 1)[None])
    return image.numpy(), trees


def test_every_block_is_recorded_in_order(recorded):
    _, trees = recorded
    assert [name.split(".mixer")[0] for name in trees] == [
        "stages.0.blocks.0", "stages.1.blocks.0", "stages.1.blocks.1", "stages.2.blocks.0", "stages.3.blocks.0",
    ]  # fmt: skip
    assert [(block.height, block.width) for block in trees.values()] == [(12, 20), (6, 10), (6, 10), (3, 5), (2, 3)]


def test_the_drawn_tree_is_the_grown_one(recorded):
    """Every line joins a token's place in the image to its parent's place."""
    image, trees = recorded
    block = next(iter(trees.values()))
    axes = Figure().subplots()
    parent = block.tree.parent[0].numpy()
    draw_tree(axes, image, parent, block.height, block.width)
    (lines,) = (c for c in axes.collections if isinstance(c, LineCollection))
    drawn = {tuple(token_at((y, x), 12, 20, image.shape) for x, y in ends) for ends in lines.get_segments()}
    assert drawn == {(child, other) for child, other in enumerate(parent.tolist()) if child != other}
    assert len(lines.get_segments()) == 12 * 20 - 1
    # The root is the first token and covers 4 × 4 pixels. Its centre is between its pixels 1 and 2.
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[1.5, 1.5]]]


def test_edges_show_the_way_to_the_root_and_what_hangs_on_them(recorded):
    """The colour of an edge is its child's distance from the root; it is as thick as its subtree is large."""
    image, trees = recorded
    block = next(iter(trees.values()))
    parent = block.tree.parent[0].numpy()
    tree = nx.DiGraph([(int(p), c) for c, p in enumerate(parent) if c != p])
    ways = nx.single_source_shortest_path_length(tree, 0)
    sizes = {v: 1 + len(nx.descendants(tree, v)) for v in tree}
    assert depths(parent).tolist() == [ways[v] for v in range(240)]
    assert subtree_sizes(parent, depths(parent)).tolist() == [sizes[v] for v in range(240)]
    edges = draw_tree(Figure().subplots(), image, parent, block.height, block.width)
    children = [token_at((y, x), 12, 20, image.shape) for (x, y), _ in edges.get_segments()]
    longest = max(ways.values())
    assert edges.get_array().tolist() == pytest.approx([ways[v] / longest for v in children])
    drawn = [sizes[v] for v in children]
    assert drawn == sorted(drawn), "thick edges are over thin ones"
    thickness = edges.get_linewidths()
    assert (np.diff(thickness) >= 0).all()
    assert thickness[-1] > 2 * thickness[0]


def test_fewer_columns_make_larger_panels(recorded):
    image, trees = recorded
    wide = [tree_figure(image, trees, columns=n).axes[0].bbox.width for n in (1, 2, 3)]
    assert wide[0] > 1.9 * wide[1] > 2.8 * wide[2]
    assert tree_figure(image, trees, width=COLUMN).get_figwidth() == COLUMN


def test_tokens_cover_the_image():
    shape = (7, 11)
    covered = [[token_at((row, column), 3, 4, shape) for column in range(11)] for row in range(7)]
    assert sorted(set(np.ravel(covered))) == list(range(12))
    assert covered == [[int((row + 0.5) / 7 * 3) * 4 + int((c + 0.5) / 11 * 4) for c in range(11)] for row in range(7)]
    # A corner of an image of another size maps to the same corner.
    corner = scaled_pixel((299, 450), (300, 451), shape)
    assert corner == pytest.approx((6.5 - 3.5 / 300, 10.5 - 5.5 / 451))
    assert token_at(corner, 3, 4, shape) == 11
    for outside in ((-1, 0), (7, 0), (6.5, 0), (0, 11)):
        with pytest.raises(ValueError, match="outside the image of 7 × 11"):
            token_at(outside, 3, 4, shape)


def test_affinity_maps_start_at_the_pixel(recorded):
    image, trees = recorded
    for block in trees.values():
        pixel = (30, 61)
        vertex = int(30.5 / 48 * block.height) * block.width + int(61.5 / 80 * block.width)
        through_tree, along_rows = affinity_maps(block, pixel, image.shape)
        assert through_tree.shape == along_rows.shape == (block.height, block.width)
        parent, weight = block.tree.parent[0].tolist(), block.weight[0].double().numpy()
        graph = nx.Graph([(c, p, {"w": weight[c]}) for c, p in enumerate(parent) if c != p])
        for other, way in nx.single_source_shortest_path(graph, vertex).items():
            product = np.prod([graph.edges[e]["w"] for e in nx.utils.pairwise(way)] + [np.ones(16)], axis=0).mean()
            assert through_tree.flat[other] == pytest.approx(product, rel=1e-5)
        assert along_rows.flat[vertex] == through_tree.flat[vertex] == 1


def test_the_affinity_figure_shows_the_maps(recorded):
    image, trees = recorded
    pixels = [(3, 5), (40, 70)]
    figure = affinity_figure(image, trees, pixels, "whose weights")
    assert figure.get_suptitle() == "whose weights"
    assert [round(x, 3) for x in figure.get_size_inches()] == [PAGE, pytest.approx(2.77, abs=0.05)]
    *panels, bar = figure.axes
    assert bar.get_ylabel() == "affinity"
    assert bar.get_ylim() == (0, 1)
    for row, pixel in zip(np.reshape(panels, (2, 11)), pixels, strict=True):
        assert all(panel.lines[0].get_xydata().tolist() == [[pixel[1], pixel[0]]] for panel in row)
        assert [text.get_text() for panel in row for text in panel.texts] == ["through the tree", "row by row"]
        for i, block in enumerate(trees.values()):
            for panel, expected in zip(row[1 + 2 * i :], affinity_maps(block, pixel, image.shape), strict=False):
                shown = panel.images[-1]
                np.testing.assert_array_equal(shown.get_array(), expected)
                assert shown.get_clim() == (0, 1)


def test_the_tree_figure_has_every_block(recorded):
    image, trees = recorded
    figure = tree_figure(image, trees)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:3] == ["image", "stage 1, block 1\n12 × 20 tokens", "stage 2, block 1\n6 × 10 tokens"]
    assert [len(axes.collections) for axes in figure.axes[:-1]] == [0, 1, 1, 1, 1, 1]
    assert [text.get_text() for text in figure.axes[-1].get_yticklabels()] == ["root", "farthest\nfrom root"]


def test_draw_choice_knows_trees():
    model = MambaTreeV(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), num_classes=0).eval()
    with record_scans(model) as scans, torch.no_grad():
        model(torch.rand(2, 3, 32, 32))
    chosen = next(iter(scans.values()))
    drawn = []
    for sample in range(2):
        axes = Figure().subplots()
        draw_choice(chosen, axes, np.zeros((32, 32)), sample)
        drawn.append(np.array(axes.collections[0].get_segments()))
    assert not np.array_equal(*drawn)
    with pytest.raises(TypeError, match="no drawing is registered for a Decimal of decimal: import"):
        draw_choice(Decimal(3), axes, np.zeros((32, 32)))
