"""Compares the tree scan with dense sums over the paths of a tree grown by hand, and tests every ablation switch."""

import importlib

import networkx
import pytest
import torch
import torch.nn.functional as F
from oracles.grid import DISTANCES, grid
from oracles.spanning_trees import hang, kruskal, neighbours_of

from ssm_core.layers import record_scans
from ssm_core.testing import assert_close
from tree_ssm import MambaTreeV, modules
from tree_ssm.modules import TreeScan, scattered_weights

SIZES = {"depths": (2, 2, 2, 1), "dims": (16, 16, 16, 16), "num_classes": 5}


def literal_tree_scan(scan, x, root):
    """Compute h_i = Σ_j (∏ Ā over path(i, j)) u_j one state at a time by walking all paths; y = C ⊙ LN(h) + D ⊙ x."""
    _, height, width, dim = x.shape
    edges, results, parents = grid(height, width), [], []
    sizes = (scan.dt_rank, scan.d_state, scan.d_state)
    for tokens in x.flatten(1, 2):
        distance = DISTANCES[scan.guide_distance]
        weights = [float(distance(tokens[a].detach(), tokens[b].detach())) for a, b in edges]
        tree = kruskal(weights, edges, height * width)
        neighbours, (parent, _) = neighbours_of(tree, height * width), hang(tree, height * width, root)
        step, B, C = (tokens @ scan.x_proj.weight.T).split(sizes, dim=-1)
        delta = F.softplus(step @ scan.dt_weight[0].T + scan.dt_bias[0])
        y = scan.D[0] * tokens
        for n in range(scan.d_state):
            decay = torch.exp(-delta * scan.A_log[0, :, n].exp())
            source = delta * tokens * B[:, n : n + 1]
            h = []
            for i in range(height * width):
                paths, open_ = {i: torch.ones(dim, dtype=x.dtype)}, [i]
                for v in open_:
                    for w in neighbours[v]:
                        if w not in paths:
                            child = w if parent[w] == v else v  # the edge carries the child's decay
                            paths[w] = paths[v] * decay[child]
                            open_.append(w)
                h.append(sum(product * source[j] for j, product in paths.items()))
            h = F.layer_norm(torch.stack(h), (dim,), scan.h_norm.weight, scan.h_norm.bias)
            y = y + C[:, n : n + 1] * h
        results.append(y)
        parents.append(parent)
    return torch.stack(results).view_as(x), torch.tensor(parents)


@pytest.mark.parametrize("root", ["first", "center", "last"])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("d_state", [1, 3])
def test_tree_scan_equals_dense_path_products(d_state, distance, root):
    torch.manual_seed(0)
    scan = TreeScan(6, d_state, 2, distance, "minimum", root).double()
    with torch.no_grad():
        for parameter in scan.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    y, grown = scan(x)
    expected, parents = literal_tree_scan(scan, x, {"first": 0, "center": 7, "last": 14}[root])
    assert torch.equal(grown.tree.parent, parents)
    assert_close(y, expected, "y", 1e-10)
    probe = torch.randn_like(y)
    names, leaves = zip(("x", x), *scan.named_parameters(), strict=True)
    actual = torch.autograd.grad((y * probe).sum(), leaves)
    for name, a, b in zip(names, actual, torch.autograd.grad((expected * probe).sum(), leaves), strict=True):
        assert b.abs().max() > 0, f"the test is blind to {name}"
        assert_close(a, b, name, 1e-10)


def test_scattered_weights_look_random_and_never_change():
    weights = scattered_weights(6160, torch.device("cpu"))
    assert weights.unique().numel() > 6100
    assert weights.min() >= 0
    assert weights.max() < 1
    assert abs(weights.mean() - 0.5) < 0.02
    assert abs(torch.corrcoef(torch.stack([weights[1:], weights[:-1]]))[0, 1]) < 0.05
    assert torch.equal(weights[:100], scattered_weights(100, torch.device("cpu")))


def build(**arguments):
    torch.manual_seed(0)
    model = MambaTreeV(**SIZES | arguments)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def look(model, x):
    with record_scans(model) as record:
        return model(x), list(record.values())


def picture():
    return torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "arguments",
    [
        {"guide_distance": "euclidean"},
        {"guide_distance": "manhattan"},
        {"tree_kind": "maximum"},
        {"tree_kind": "random"},
        {"tree_kind": "raster", "tree_root": "last"},
        {"tree_root": "center"},
        {"tree_root": "last"},
        {"tree_sharing": "stage"},
    ],
    ids=str,
)
def test_every_switch_changes_the_output_and_trains(arguments):
    base, changed, x = build(), build(**arguments), picture()
    changed.load_state_dict(base.state_dict())
    assert not torch.allclose(base(x), changed(x), rtol=1e-5)
    changed.train()(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in changed.parameters())


def total_weight(grown, x, scan):
    """Sum the distances between the two tokens of each of the tree's edges."""
    parent = grown.tree.parent
    tokens = x.flatten(1, 2)
    others = tokens.gather(1, parent.unsqueeze(-1).expand_as(tokens))
    return torch.exp(-F.cosine_similarity(tokens, others, dim=-1)).sum(1)


def test_kinds_of_tree():
    x = torch.randn(2, 8, 6, 6)
    trees = {kind: TreeScan(6, 1, 1, tree_kind=kind).eval() for kind in ("minimum", "maximum", "random")}
    weights = {kind: total_weight(scan(x)[1], x, scan) for kind, scan in trees.items()}
    assert (weights["minimum"] < weights["random"]).all()
    assert (weights["random"] < weights["maximum"]).all()
    random = trees["random"]
    parents = random(x)[1].tree.parent
    assert torch.equal(parents, random(2 * x.flip(1))[1].tree.parent)  # it ignores the features
    random.train()
    first, second = random(x)[1].tree.parent, random(x)[1].tree.parent
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_roots():
    x = torch.randn(2, 5, 4, 6)
    for root, vertex in (("first", 0), ("center", 10), ("last", 19)):
        tree = TreeScan(6, 1, 1, tree_root=root)(x)[1].tree
        assert (tree.parent[:, vertex] == vertex).all()
        assert (tree.order[:, 0] == vertex).all()


def test_sharing_grows_one_tree_a_stage(monkeypatch):
    grown = []
    original = modules.minimum_spanning_tree

    def counting(*arguments, **options):
        grown.append(arguments[1:])
        return original(*arguments, **options)

    monkeypatch.setattr(modules, "minimum_spanning_tree", counting)
    _, seen = look(build(tree_sharing="stage"), picture())
    assert grown == [(16, 12), (8, 6), (4, 3), (2, 2)]
    assert len(seen) == 7
    assert seen[0] is not seen[2]
    for first, second in ((0, 1), (2, 3), (4, 5)):
        assert torch.equal(seen[first].tree.parent, seen[second].tree.parent)
    grown.clear()
    _, seen = look(build(), picture())
    assert len(grown) == 7
    assert not torch.equal(seen[0].tree.parent, seen[1].tree.parent)


def test_layer_scale():
    x = picture()
    plain, scaled = build(), build(layer_scale=1.0)
    scaled.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        for name, parameter in scaled.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(1.0)
    assert_close(scaled(x), plain(x), tolerance=1e-6)
    names = set(dict(scaled.named_parameters())) - set(dict(plain.named_parameters()))
    assert len(names) == 2 * 7
    assert names <= scaled.no_weight_decay()
    torch.manual_seed(0)
    assert MambaTreeV(layer_scale=1e-5, **SIZES).stages[0].blocks[0].scale1.gamma.unique() == torch.tensor(1e-5)


@pytest.mark.parametrize("root", ["first", "center", "last"])
def test_the_raster_path_joins_neighbours_in_reading_order(root):
    scan = TreeScan(6, 1, 1, tree_kind="raster", tree_root=root)
    grown = scan(torch.randn(2, 3, 5, 6))[1]
    start = {"first": 0, "center": 7, "last": 14}[root]
    for parent, order in zip(grown.tree.parent.tolist(), grown.tree.order.tolist(), strict=True):
        path = networkx.path_graph(15)
        above = dict(networkx.bfs_predecessors(path, start))
        assert parent == [above.get(token, token) for token in range(15)]
        assert order == [start, *(token for _, token in networkx.bfs_edges(path, start))]


def test_along_the_raster_path_a_scan_is_that_of_the_sequence_both_ways():
    torch.manual_seed(0)
    scan = TreeScan(4, 1, 2, tree_kind="raster").double()
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    tokens = x.flatten(1, 2)
    delta, B, C = (part[0, 0] for part in scan.project(tokens))
    step = F.softplus(delta + scan.dt_bias[0])
    decay, source = scan.edge_weights(tokens)[0, :, 0], step * tokens[0] * B
    ahead, back = source.clone(), source.clone()
    for i in range(1, 12):
        ahead[i] += decay[i] * ahead[i - 1]  # the later end of an edge gives it its weight
        back[11 - i] += decay[12 - i] * back[12 - i]
    state = ahead + back - source
    normed = F.layer_norm(state, (4,), scan.h_norm.weight, scan.h_norm.bias, scan.h_norm.eps)
    assert_close(scan(x)[0].flatten(1, 2)[0], C * normed + scan.D[0] * tokens[0])


@pytest.mark.parametrize("d_state", [1, 2])
def test_scan_is_float32_under_autocast(monkeypatch, d_state):
    caller = importlib.import_module("tree_ssm.ops.selective_tree_scan") if d_state == 1 else modules
    dtypes = []
    original = caller.tree_scan

    def spying(u, weight, *others, **options):
        dtypes.append((u.dtype, weight.dtype))
        return original(u, weight, *others, **options)

    monkeypatch.setattr(caller, "tree_scan", spying)
    with torch.autocast("cpu", torch.bfloat16):
        build(d_state=d_state)(picture())
    assert set(dtypes) == {(torch.float32, torch.float32)}


@pytest.mark.parametrize(
    ("name", "value"),
    [("guide_distance", "cosin"), ("tree_kind", "minimal"), ("tree_root", "middle"), ("tree_sharing", "none")],
)
def test_unfit_switches_say_what_is_wrong(name, value):
    with pytest.raises(ValueError, match=f"{name} must be one of .*, got '{value}'"):
        MambaTreeV(**SIZES, **{name: value})


def test_maps_are_those_before_the_head():
    x = picture()
    model, backbone = build(), build(out_indices=(0, 3))
    backbone.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("head")})
    assert_close(backbone(x)[1].permute(0, 2, 3, 1), model.forward_features(x), tolerance=1e-6)
