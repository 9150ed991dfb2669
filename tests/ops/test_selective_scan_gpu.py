"""Compares the selective scan on the GPU with the CPU kernel, and tests everything that only a GPU can get wrong."""

from functools import partial

import pytest
import torch
from oracles import selective_scans
from oracles.selective_scans import NAMES, operator_arguments, run_with_gradients
from torch.library import opcheck

from ssm_core.ops import directional_scan, selective_scan
from ssm_core.testing import assert_as_good_as, assert_close, relative_error

pytestmark = pytest.mark.gpu

HALF_TYPES = (torch.bfloat16, torch.float16)
make_inputs = partial(selective_scans.make_inputs, device="cuda")
make_order = partial(selective_scans.make_order, device="cuda")


def on(device, inputs):
    return [x.detach().to(device).requires_grad_() for x in inputs]


def assert_equals_cpu(inputs, order=None, reverse=None, tolerance=None):
    actual = run_with_gradients(inputs, order=order, reverse=reverse, backend="cuda")
    expected = run_with_gradients(
        on("cpu", inputs), order=None if order is None else order.cpu(), reverse=reverse, backend="cpu"
    )
    for name, a, e in zip(NAMES, actual, expected, strict=False):
        assert_close(a, e, name, tolerance)


@pytest.mark.parametrize("one_order", [True, False], ids=["one order", "an order each"])
@pytest.mark.parametrize("channels", [1, 16, 17, 70])
@pytest.mark.parametrize("states", [1, 3])
# The lengths need one thread, one warp, one block, and clusters of two to sixteen blocks.
@pytest.mark.parametrize("length", [1, 2, 49, 63, 196, 197, 1000, 3136])
def test_equals_the_cpu_kernel_with_every_gradient(length, states, channels, one_order):
    inputs = make_inputs(2, length, channels, 3, states)
    assert_equals_cpu(inputs, make_order(2, 3, length, one_order), (False, True, False))


@pytest.mark.parametrize("one_order", [True, False], ids=["one order", "an order each"])
@pytest.mark.parametrize("states", [1, 2])
def test_sequences_longer_than_a_cluster_holds(states, one_order):
    inputs = make_inputs(2, 4001, 18, 2, states)
    assert_equals_cpu(inputs, make_order(2, 2, 4001, one_order), (True, False))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("batch", "length", "directions", "states", "one_order"),
    [(600, 50, 2, 2, True), (600, 196, 4, 1, False), (150, 784, 2, 1, True), (36, 3136, 2, 1, True)],
)
def test_blocks_that_take_several_tiles_of_channels(batch, length, directions, states, one_order, dtype):
    """With more sequences than the device holds blocks, a block works on several tiles of channels in turn."""
    inputs = make_inputs(batch, length, 72, directions, states, dtype=dtype)
    options = {
        "order": make_order(batch, directions, length, one_order),
        "reverse": [k % 2 == 1 for k in range(directions)],
    }
    actual = run_with_gradients(inputs, **options, backend="cuda")
    exact = [x.detach().double().cpu().requires_grad_() for x in inputs]
    options["order"] = options["order"].cpu()
    for name, a, e in zip(NAMES, actual, run_with_gradients(exact, **options, backend="cpu"), strict=True):
        assert_close(a, e, name)


def test_many_states():
    assert_equals_cpu(make_inputs(1, 100, 20, 2, 64), make_order(1, 2, 100), (False, True))


def test_more_orders_than_a_block_keeps():
    assert_equals_cpu(make_inputs(1, 30, 6, 18, 1), make_order(1, 18, 30), [k % 2 == 1 for k in range(18)])


def test_pairs_of_channels_in_float32():
    """A thread takes two channels in float32, in which models run, and one channel in float64."""
    for length in (196, 784, 3136, 4001):
        inputs = make_inputs(2, length, 40, 2, 1, dtype=torch.float32)
        order = make_order(2, 2, length, one_order=True)
        actual = run_with_gradients(inputs, order=order, reverse=(False, True))
        exact = run_with_gradients(
            [x.detach().double().requires_grad_() for x in inputs], order=order, reverse=(False, True)
        )
        for name, a, e in zip(NAMES, actual, exact, strict=True):
            assert_close(a, e, f"{name} at {length}")


@pytest.mark.parametrize("parameters", ["none", "D", "delta_bias"])
def test_optional_parameters_may_be_left_out(parameters):
    x, delta, A, B, C, D, bias = make_inputs(2, 12, 6, 2, 2)
    options = {"none": {}, "D": {"D": D}, "delta_bias": {"delta_bias": bias}}[parameters]
    y = directional_scan(x, delta, A, B, C, **options)
    assert_close(y, directional_scan(x, delta, A, B, C, **options, backend="reference"))


def test_strided_views_need_no_copy_and_give_the_same():
    x, delta, A, B, C, D, bias = (t.detach() for t in make_inputs(2, 20, 8, 3, 2, dtype=torch.float32))
    packed = torch.cat([B, C], dim=-1).transpose(1, 2).contiguous().transpose(1, 2)  # one projection returns this
    strided_delta = delta.transpose(0, 1).contiguous().transpose(0, 1)
    odd_rows = torch.cat([x, x[..., :1]], dim=-1)[..., :8]  # its rows start at odd addresses
    y = directional_scan(x, delta, A, B, C, D, bias)
    assert torch.equal(y, directional_scan(x, strided_delta, A, *packed.split(2, dim=-1), D, bias))
    assert_close(y, directional_scan(odd_rows, delta, A, B, C, D, bias))
    unaligned = torch.empty(x.numel() + 1, device="cuda")[1:].view_as(x).copy_(x)
    assert_close(y, directional_scan(unaligned, delta, A, B, C, D, bias))


@pytest.mark.parametrize("form", ["ungrouped", "grouped", "constant"])
def test_mamba_signature(form):
    batch, channels, states, length, groups = 2, 12, 3, 15, 4
    u, z = torch.randn(2, batch, channels, length, dtype=torch.float64, device="cuda")
    delta = torch.rand(batch, channels, length, dtype=torch.float64, device="cuda")
    A = -torch.rand(channels, states, dtype=torch.float64, device="cuda")
    shape = {"ungrouped": (batch, states, length), "grouped": (batch, groups, states, length)}
    B, C = torch.randn(2, *shape.get(form, (channels, states)), dtype=torch.float64, device="cuda")
    leaves = [t.requires_grad_() for t in (u, delta, A, B, C, z)]

    def run(tensors, backend):
        u, delta, A, B, C, z = tensors
        y, last = selective_scan(
            u, delta, A, B, C, z=z, delta_softplus=True, return_last_state=True, reverse=form == "grouped",
            backend=backend,
        )  # fmt: skip
        return [y, last, *torch.autograd.grad(y.sin().sum() + last.cos().sum(), tensors)]

    for a, e in zip(run(leaves, "cuda"), run(on("cpu", leaves), "cpu"), strict=True):
        assert_close(a, e)


@pytest.mark.parametrize("length", [10, 1000, 4001])
@pytest.mark.parametrize("reverse", [False, True])
def test_last_state_and_its_gradient(length, reverse):
    u, delta = torch.randn(2, 2, 6, length, dtype=torch.float64, device="cuda")
    A = -torch.rand(6, 2, dtype=torch.float64, device="cuda")
    B, C = torch.randn(2, 2, 2, length, dtype=torch.float64, device="cuda")
    leaves = [x.requires_grad_() for x in (u, delta, A, B)]

    def run(tensors, C, backend):
        _, last = selective_scan(
            *tensors, C, delta_softplus=True, return_last_state=True, reverse=reverse, backend=backend
        )
        return [last, *torch.autograd.grad(last.sin().sum(), tensors)]

    for a, e in zip(run(leaves, C, "cuda"), run(on("cpu", leaves), C.cpu(), "cpu"), strict=True):
        assert_close(a, e)


@pytest.mark.parametrize("one_order", [True, False], ids=["one order", "an order each"])
def test_gradcheck_on_the_kernel(one_order):
    inputs = make_inputs(2, 9, 3, 2, 2)
    order = make_order(2, 2, 9, one_order)

    def scan(*args):
        return directional_scan(*args, order=order, reverse=(True, False), backend="cuda")

    assert torch.autograd.gradcheck(scan, inputs)


def test_opcheck():
    for arguments in operator_arguments("cuda"):
        opcheck(torch.ops.ssm_core.selective_scan.default, arguments)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_without_a_graph_break(backend):
    inputs = make_inputs(2, 50, 8, 2, 1, dtype=torch.float32)
    order = make_order(2, 2, 50, one_order=True)

    def loss(*args):
        return directional_scan(*args, order=order, reverse=(False, True)).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    for a, e in zip(
        torch.autograd.grad(compiled(*inputs), inputs), torch.autograd.grad(loss(*inputs), inputs), strict=True
    ):
        assert_close(a, e)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF_TYPES])
@pytest.mark.parametrize(("states", "length"), [(1, 150), (4, 150), (16, 150), (1, 800), (16, 800)])
def test_low_precision_is_as_good_as_the_reference(dtype, states, length):
    inputs = make_inputs(2, length, 24, 2, states, dtype=dtype)
    exact = run_with_gradients([x.detach().double().requires_grad_() for x in inputs], backend="reference")
    same_dtype = run_with_gradients(inputs, backend="reference")
    actual = run_with_gradients(inputs, backend="cuda")
    for name, a, s, e in zip(NAMES, actual, same_dtype, exact, strict=True):
        assert a.dtype == s.dtype
        assert_as_good_as(a, s, e, name)


def test_float_exponential_and_softplus_over_their_whole_range():
    """One scan step shows Δ = softplus(x), and two show exp(Δ·A). Values range from tiny to saturated."""
    x = torch.cat([torch.linspace(-60, 60, 4001), torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4])]).cuda()
    one = torch.ones(1, 1, 1, len(x), device="cuda")
    y = directional_scan(one[:, 0], x.view(1, 1, 1, -1), -one[0].transpose(1, 2), one[..., :1], one[..., :1])
    expected = torch.nn.functional.softplus(x.double(), threshold=1000)
    # The argument of exp is rounded to float32. Where softplus is close to exp, the relative error grows with |x|.
    assert torch.allclose(y.flatten().double(), expected, rtol=4e-6, atol=2e-38)
    models_range = x.abs() < 20
    assert torch.allclose(y.flatten()[models_range].double(), expected[models_range], rtol=1e-6, atol=0)
    # Two steps with Δ = 1 and an input of 0 at the second give h = exp(Δ·A)·1.
    rates = torch.linspace(0, 87, 3001, device="cuda")
    delta = torch.full((1, 2, len(rates)), float(torch.tensor(1.0).double().expm1().log()), device="cuda")[:, None]
    u = torch.stack([torch.ones_like(rates), torch.zeros_like(rates)])[None]
    ones = torch.ones(1, 1, 2, 1, device="cuda")
    y = directional_scan(u, delta, -rates.view(1, -1, 1), ones, ones)
    assert torch.allclose(y[0, 1].double(), torch.exp(-rates.double()), rtol=1e-5, atol=2e-38)


def test_slope_of_softplus_does_not_cancel_for_small_steps():
    x = torch.linspace(-15, 10, 2001, device="cuda").view(1, 1, 1, -1).requires_grad_()
    one = torch.ones(1, 1, 1, x.shape[-1], device="cuda")
    y = directional_scan(one[:, 0], x, -one[0].transpose(1, 2), one[..., :1], one[..., :1])
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(slope.double(), x.detach().double().sigmoid(), rtol=2e-6, atol=0)


@pytest.mark.parametrize("states", [1, 16])
def test_nan_and_huge_inputs_stay_in_their_own_channel(states):
    inputs = [t.detach() for t in make_inputs(1, 6, 4, 1, states, dtype=torch.float32)]
    clean = directional_scan(*inputs)
    inputs[0][0, 2, 1] = float("nan")
    y = directional_scan(*inputs)
    assert y[0, 2:, 1].isnan().all()
    assert torch.equal(y[..., [0, 2, 3]], clean[..., [0, 2, 3]])


@pytest.mark.parametrize("states", [1, 16])
@pytest.mark.parametrize("length", [196, 3136, 5000])
@pytest.mark.parametrize("one_order", [True, False], ids=["one order", "an order each"])
def test_same_bits_from_run_to_run(length, one_order, states):
    inputs = make_inputs(4, length, 48, 4, states, dtype=torch.bfloat16)
    options = {"order": make_order(4, 4, length, one_order), "reverse": (False, True, True, False)}
    first = run_with_gradients(inputs, **options)
    for _ in range(3):
        for a, e in zip(run_with_gradients(inputs, **options), first, strict=True):
            assert torch.equal(a, e)


@pytest.mark.parametrize("states", [1, 16])
@pytest.mark.parametrize("length", [60, 1000, 4001])
def test_captured_in_a_graph(length, states):
    inputs = make_inputs(2, length, 16, 2, states, dtype=torch.float32)
    order = make_order(2, 2, length, one_order=True)
    with torch.cuda.stream(side := torch.cuda.Stream()):
        run_with_gradients(inputs, order=order, reverse=(False, True))  # this call loads the kernels
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run_with_gradients(inputs, order=order, reverse=(False, True))
    with torch.no_grad():
        for x in (*inputs[:2], *inputs[3:5]):
            x.copy_(torch.randn_like(x))
        order[:, 0].copy_(make_order(2, 1, length)[:, 0])
    graph.replay()
    for a, e in zip(captured, run_with_gradients(inputs, order=order, reverse=(False, True)), strict=True):
        assert torch.equal(a, e)


@pytest.mark.parametrize("states", [1, 16])
def test_runs_on_the_current_stream(states):
    inputs = make_inputs(2, 500, 16, 2, states, dtype=torch.float32)
    expected = run_with_gradients(inputs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)  # a kernel on another stream would read its input before the copy below
        with torch.no_grad():
            doubled = [inputs[0].detach().mul(2).requires_grad_(), *inputs[1:]]
        actual = run_with_gradients(doubled)
    torch.cuda.current_stream().wait_stream(stream)
    assert_close(actual[0], 2 * expected[0])


@pytest.mark.parametrize("states", [1, 16])
def test_needs_no_synchronisation(states):
    inputs = make_inputs(2, 500, 16, 2, states, dtype=torch.float32)
    order = make_order(2, 2, 500)
    expected = run_with_gradients(inputs, order=order, reverse=(False, True))
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        actual = run_with_gradients(inputs, order=order, reverse=(False, True))
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    assert all(map(torch.equal, actual, expected))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_runs_on_the_tensors_device():
    inputs = make_inputs(2, 1000, 16, 2, 1)
    for a, e in zip(run_with_gradients(on("cuda:1", inputs)), run_with_gradients(inputs), strict=True):
        assert a.device.index == 1
        assert_close(a.cpu(), e.cpu())


@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_autocast_reads_tokens_in_low_precision_and_keeps_parameters_in_float32(dtype):
    inputs = make_inputs(2, 30, 16, 2, 1, dtype=torch.float32)
    with torch.autocast("cuda", dtype=dtype):
        y = directional_scan(*inputs)
    assert y.dtype == dtype
    gradients = torch.autograd.grad(y.float().square().sum(), inputs)
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)
    assert relative_error(y.float(), directional_scan(*inputs)) < 1e-2


@pytest.mark.parametrize("states", [1, 3])
def test_order_out_of_range_reads_and_writes_nothing_else(states):
    """An error would need a synchronisation, so the kernel skips the bad step instead."""
    inputs = [t.detach() for t in make_inputs(1, 6, 4, 1, states)]
    order = torch.tensor([0, 1, 2, 3, 4, 2**40], device="cuda")
    y = directional_scan(*inputs, order=order)
    short = [t[:, :5] if t.dim() == 3 and t.shape[1] == 6 else t for t in inputs]
    short = [t[:, :, :5] if t.dim() == 4 else t for t in short]
    assert_close(y[:, :5], directional_scan(*short))


@pytest.mark.parametrize("states", [1, 2])
def test_more_sequences_than_one_dimension_of_a_grid_holds(states):
    assert_equals_cpu(make_inputs(70_000, 2, 1, 1, states))


@pytest.mark.parametrize("states", [1, 16])
def test_empty_batch(states):
    inputs = make_inputs(0, 6, 4, 2, states)
    results = run_with_gradients(inputs)
    assert all(r.shape == t.shape for r, t in zip(results[1:], inputs, strict=True))
    assert not any(r.any() for r in results)
