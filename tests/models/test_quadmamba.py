"""Compares the quadtree and cross scans with literal transcriptions of the paper, and tests every ablation switch."""

import pytest
import torch
import torch.nn.functional as F

from quadtree_ssm import QuadMamba
from quadtree_ssm.modules import CrossScan, QuadtreeScan, ReleasedQuadtreeScan, ScorePredictor
from ssm_core.layers import record_scans
from ssm_core.testing import assert_close

SIZES = {"depths": (2, 2, 1, 1), "dims": (16, 16, 16, 16), "num_classes": 5}


def scan_one_direction(ssm, k, sequence):
    """Step through h ← exp(Δ·A)·h + Δ·B·x, y = C·h + D·x along ``sequence`` [L, D]."""
    weight = ssm.x_proj.weight.unflatten(0, (ssm.directions, -1))[k]
    A = -ssm.A_log[k].exp()
    h, outputs = torch.zeros_like(A), []
    for x in sequence:
        step, B, C = (weight @ x).split((ssm.dt_rank, ssm.d_state, ssm.d_state))
        delta = F.softplus(ssm.dt_weight[k] @ step + ssm.dt_bias[k])
        h = torch.exp(delta[:, None] * A) * h + (delta * x)[:, None] * B
        outputs.append(h @ C + ssm.D[k] * x)
    return torch.stack(outputs)


def forward_and_backward(ssm, sequence):
    return scan_one_direction(ssm, 0, sequence) + scan_one_direction(ssm, 1, sequence.flip(0)).flip(0)


def quarters(window):
    """Return the four quarters of a block of token numbers, in raster order."""
    top, left = -(-window.shape[0] // 2), -(-window.shape[1] // 2)
    return [window[:top, :left], window[:top, left:], window[top:, :left], window[top:, left:]]


def literal_quadtree_scan(ssm, x, fine_order, roll_scores, noise):
    """Compute section 3.2's gather and scatter one sample at a time. Autograd differentiates all of it."""
    _, height, width, dim = x.shape
    shift = ssm.shift(height)
    tokens = torch.arange(height * width).view(height, width).roll(shift, (0, 1))
    coarse = torch.cat([q.flatten() for q in quarters(tokens)])
    fine = fine_order(tokens)
    p = ssm.predictor
    hidden = F.gelu(p.fc1(F.layer_norm(x, (dim,), p.norm.weight, p.norm.bias)))
    score = F.log_softmax(p.fc4(F.gelu(p.fc3(F.gelu(p.fc2(hidden))))), dim=-1)[..., 0].flatten(1)
    quadrants = quarters(tokens if roll_scores else torch.arange(height * width).view(height, width))
    logits = torch.stack([score[:, q.flatten()].mean(1) for q in quadrants], dim=1)
    gumbel = -torch.empty_like(logits).exponential_().log() if noise else 0
    soft = (logits + gumbel).softmax(-1)
    hard = F.one_hot(soft.argmax(-1), 4) - soft.detach() + soft
    results = []
    for features, one_hot in zip(x.flatten(1, 2), hard, strict=True):
        mask = torch.empty(height * width, dtype=x.dtype)
        for q, part in enumerate(quarters(tokens)):
            mask = mask.index_put((part.flatten(),), one_hot[q].expand(part.numel()))
        mask = mask[:, None]
        sequence = (features * mask)[fine] + (features * (1 - mask))[coarse]
        y = forward_and_backward(ssm, sequence)
        y_fine, y_coarse = torch.zeros_like(y), torch.zeros_like(y)
        y_fine, y_coarse = y_fine.index_copy(0, fine, y), y_coarse.index_copy(0, coarse, y)
        results.append(y_fine * mask + y_coarse * (1 - mask))
    return torch.stack(results).view_as(x), hard.argmax(-1)


def nested_order(tokens):
    return torch.cat([w.flatten() for q in quarters(tokens) for w in quarters(q)])


def window_raster_order(tokens):
    """Return the released order, which takes the 4 × 4 windows in raster order."""
    rows = [half for part in (tokens,) for q in (quarters(part)[0], quarters(part)[2]) for half in halves(q.shape[0])]
    columns = [half for q in quarters(tokens)[:2] for half in halves(q.shape[1])]
    bands = tokens.split(rows, dim=0)
    return torch.cat([w.flatten() for band in bands for w in band.split(columns, dim=1)])


def halves(length):
    return (-(-length // 2), length // 2)


def make_scan(scan_class, dim=8, **arguments):
    torch.manual_seed(0)
    scan = scan_class(dim, 2, 1, **arguments).double()
    with torch.no_grad():
        for parameter in scan.parameters():  # move every parameter off its neutral value
            parameter.add_(0.3 * torch.randn_like(parameter))
    return scan


def assert_same_gradients(scan, x, y, expected, tolerance=1e-10):
    assert_close(y, expected, "y", tolerance)
    probe = torch.randn_like(y)
    names, leaves = zip(("x", x), *scan.named_parameters(), strict=True)
    actual = torch.autograd.grad((y * probe).sum(), leaves)
    wanted = torch.autograd.grad((expected * probe).sum(), leaves)
    for name, a, b in zip(names, actual, wanted, strict=True):
        assert b.abs().max() > 0, f"the test is blind to {name}"
        assert_close(a, b, name, tolerance)


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (9, 6)], ids=str)
@pytest.mark.parametrize("signs", [None, (1, -1)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_quadtree_scan_equals_gather_and_scatter(size, signs, training):
    scan = make_scan(QuadtreeScan, shift_signs=signs).train(training)
    x = torch.randn(3, *size, 8, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(7)
    y, chosen = scan(x)
    torch.manual_seed(7)
    expected, choice = literal_quadtree_scan(scan, x, nested_order, roll_scores=True, noise=training)
    assert torch.equal(chosen.choice, choice)
    assert_same_gradients(scan, x, y, expected)


@pytest.mark.parametrize("size", [(8, 8), (12, 8), (9, 7)], ids=str)
@pytest.mark.parametrize("signs", [None, (-1, 1)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_released_scan_equals_its_own_gather_and_scatter(size, signs, training):
    scan = make_scan(ReleasedQuadtreeScan, shift_signs=signs).train(training)
    x = torch.randn(3, *size, 8, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(7)
    y, chosen = scan(x)
    torch.manual_seed(7)
    expected, choice = literal_quadtree_scan(scan, x, window_raster_order, roll_scores=False, noise=training)
    assert torch.equal(chosen.choice, choice)
    assert_same_gradients(scan, x, y, expected)


def test_cross_scan_equals_four_separate_scans():
    scan = make_scan(CrossScan)
    x = torch.randn(2, 3, 4, 8, dtype=torch.float64, requires_grad=True)
    results = []
    for features in x.flatten(1, 2):
        columns = torch.arange(12).view(3, 4).t().flatten()
        back = columns.argsort()
        results.append(
            scan_one_direction(scan, 0, features)
            + scan_one_direction(scan, 1, features[columns])[back]
            + scan_one_direction(scan, 2, features.flip(0)).flip(0)
            + scan_one_direction(scan, 3, features[columns].flip(0)).flip(0)[back]
        )
    assert_same_gradients(scan, x, scan(x)[0], torch.stack(results).view_as(x))


def test_global_context_replaces_half_the_hidden_channels_by_quadrant_means():
    torch.manual_seed(0)
    local, wide = ScorePredictor(16, "local"), ScorePredictor(16, "global")
    wide.load_state_dict(local.state_dict())
    x = 3 * torch.randn(2, 6, 8, 16)
    hidden = F.gelu(wide.fc1(wide.norm(x)))
    pooled = F.adaptive_avg_pool2d(hidden[..., 8:].permute(0, 3, 1, 2), 2)
    pooled = F.interpolate(pooled, size=(6, 8)).permute(0, 2, 3, 1)
    hidden = torch.cat([hidden[..., :8], pooled], dim=-1)
    expected = F.log_softmax(wide.fc4(F.gelu(wide.fc3(F.gelu(wide.fc2(hidden))))), -1)[..., 0]
    assert_close(wide(x), expected)
    assert not torch.allclose(local(x), wide(x))
    with pytest.raises(ValueError, match="context must be 'local' or 'global'"):
        ScorePredictor(16, "both")


def build(**arguments):
    """Build a small model. Its weights depend on the arguments only if these remove some weights."""
    torch.manual_seed(0)
    model = QuadMamba(**SIZES | arguments).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in dict(sorted(model.named_parameters())).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def share_weights(model, other):
    """Give ``other`` the weights of ``model`` that it has, too."""
    other.load_state_dict({k: v for k, v in model.state_dict().items() if k in other.state_dict()}, strict=True)
    return other


def look(model, x):
    with record_scans(model) as record:
        return model(x), list(record.values())


@pytest.mark.parametrize(
    "arguments",
    [
        {"quadtree_levels": 0},
        {"quadtree_levels": 1},
        {"choice": 0},
        {"choice": 3},
        {"choice": "random"},
        {"window_shift": False},
        {"predictor_context": "global"},
        {"token_order": "released"},
        {"d_state": 2},
        {"conv_bias": True},
        {"ssm_ratio": 1.0},
        {"mlp_ratio": 2.0},
    ],
    ids=str,
)
def test_every_switch_changes_the_output_and_trains(arguments):
    base, x = build(), torch.randn(3, 3, 64, 48, generator=torch.Generator().manual_seed(2))
    changed = build(**arguments)
    shapes = {k: v.shape for k, v in base.state_dict().items()}
    if all(shapes.get(k) == v.shape for k, v in changed.state_dict().items()):
        share_weights(base, changed)
    assert not torch.allclose(base(x), changed(x), rtol=1e-4)
    changed.train()(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in changed.parameters())


def test_switches_do_what_they_say():
    x = torch.randn(3, 3, 64, 64)
    _, seen = look(build(), x)
    assert len(seen) == 4
    assert all(s.levels == 2 and torch.equal(s.choice, s.logits.argmax(1)) for s in seen)
    assert [s.shift for s in seen] == [(0, 0), (2, 2), (0, 0), (-1, -1)]
    assert (seen[0].height, seen[0].width) == (16, 16)

    _, seen = look(build(window_shift=False), x)
    assert [s.shift for s in seen] == [(0, 0)] * 4
    # A fixed choice needs no predictor. If it equals the learned choice, the outputs are equal, too.
    _, seen = look(build(window_shift=False, choice=2), x)
    assert all((s.choice == 2).all() and s.score is None for s in seen)
    assert build(choice=2).stages[0].blocks[0].mixer.scan.predictor is None
    assert build(quadtree_levels=1).stages[0].blocks[0].mixer.scan.predictor is None
    model = build(window_shift=False)
    with torch.no_grad():
        for stage in model.stages[:2]:
            for block in stage.blocks:
                scores = block.mixer.scan.quadrant_logits
                block.mixer.scan.quadrant_logits = lambda s, shift, scores=scores: (
                    scores(s, shift) + torch.tensor([0.0, 0.0, 100.0, 0.0])
                )
    fixed = share_weights(model, build(window_shift=False, choice=2))
    assert_close(fixed(x), model(x), tolerance=1e-6)


def test_level_zero_is_a_scan_row_by_row():
    scan = make_scan(QuadtreeScan, levels=0, shift_signs=(1, 1))
    x = torch.randn(2, 8, 5, 8, dtype=torch.float64)
    expected = torch.stack([forward_and_backward(scan, features) for features in x.flatten(1, 2)]).view_as(x)
    assert_close(scan(x)[0], expected, tolerance=1e-10)


def test_level_one_walks_the_shifted_quadrants():
    scan = make_scan(QuadtreeScan, levels=1, shift_signs=(1, -1))
    x = torch.randn(1, 9, 8, 8, dtype=torch.float64)
    order = torch.cat([q.flatten() for q in quarters(torch.arange(72).view(9, 8).roll((1, -1), (0, 1)))])
    expected = forward_and_backward(scan, x.flatten(1, 2)[0, order])[order.argsort()].view_as(x)
    assert_close(scan(x)[0], expected, tolerance=1e-10)


def test_shift_directions_follow_the_block_number():
    with torch.device("meta"):
        model = QuadMamba((4, 6, 1, 1), (16, 16, 16, 16))
    scans = [block.mixer.scan for stage in model.stages[:2] for block in stage.blocks]
    directions = [(1, 1), (-1, -1), (1, -1), (-1, 1), (1, 1)]
    assert [s.shift_signs for s in scans[1::2]] == directions
    assert all(s.shift_signs is None for s in scans[::2])
    assert scans[5].shift(63) == (7, -7)
    # A block's index within the stage decides whether it shifts. Its index in the network decides the direction.
    with torch.device("meta"):
        model = QuadMamba((3, 2, 1, 1), (16, 16, 16, 16))
    assert [b.mixer.scan.shift_signs for s in model.stages[:2] for b in s.blocks] == [None, (1, 1), None, None, (1, -1)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quadtree_levels": 3}, "a quadtree has 0, 1 or 2 levels here, got 3"),
        ({"choice": 4}, "choice must be 'learned', 'random' or a quadrant 0, 1, 2, 3, got 4"),
        ({"choice": "fixed"}, "choice must be 'learned', 'random' or a quadrant"),
        ({"token_order": "release"}, "unknown token_order 'release': .* did you mean 'released'"),
    ],
    ids=str,
)
def test_unfit_switches_say_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        QuadMamba(**SIZES, **arguments)


def test_a_random_choice_is_drawn_for_every_map_of_a_training():
    scan = make_scan(QuadtreeScan, choice="random", shift_signs=(1, 1))
    assert scan.predictor is None
    x = torch.randn(64, 8, 8, 8, dtype=torch.float64)
    y, drawn = scan.train()(x)
    assert (torch.bincount(drawn.choice, minlength=4) > 4).all()  # of 64; 5 or fewer happen once in 1,000 seeds
    assert not torch.equal(drawn.choice, scan(x)[1].choice)
    # Every map is scanned along the quadtree of its own quadrant.
    for quadrant in range(4):
        fixed = make_scan(QuadtreeScan, choice=quadrant, shift_signs=(1, 1))
        fixed.load_state_dict(scan.state_dict())
        assert_close(y[drawn.choice == quadrant], fixed(x)[0][drawn.choice == quadrant], tolerance=1e-10)
    assert (scan.eval()(x)[1].choice == 0).all()
    assert make_scan(QuadtreeScan, choice="random", levels=1).train()(x)[1].choice.eq(0).all()


def test_noise_is_for_training_alone():
    model, x = build(), torch.randn(16, 3, 32, 32)
    _, first = look(model, x)
    _, second = look(model, x)
    assert all(torch.equal(a.choice, b.choice) for a, b in zip(first, second, strict=True))
    _, noisy = look(model.train(), x)
    assert any(not torch.equal(a.choice, b.choice) for a, b in zip(first, noisy, strict=True))
