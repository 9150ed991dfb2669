"""The selective scan in ONNX's standard operators, in 2·√L steps instead of L.

The sequence is cut into about √L chunks of √L steps. A first ``Scan`` walks all chunks side by side, each from a state
of zero, and keeps the products of the decays. A second ``Scan`` carries the state from chunk to chunk. The state that
a chunk receives, times those products, is then added to the chunk's states. Nothing is divided, and products of decays
lie between 0 and 1.
"""

from collections.abc import Sequence
from typing import Any

import torch
from onnxscript import BOOL, FLOAT, INT64, graph, script
from onnxscript.onnx_opset import opset18 as op
from onnxscript.values import Opset

_DOMAIN = Opset("ssm_core", 1)


@script(_DOMAIN)
def _in_chunks(
    steps: INT64[...],  # [B, K, L]
) -> tuple[INT64[...], INT64[...]]:  # [T, B, K, M]; [B, K, L]
    """The token at each place of the chunks ``[T, B, K, M]``, and each token's row in that tensor, ``[B, K, L]``.

    Chunk m holds the places m·T … m·T + T - 1. Places beyond the end repeat the last token, after all that counts.
    """
    length = op.Shape(steps, start=2)  # [1]
    size = op.Cast(op.Ceil(op.Sqrt(op.Cast(length, to=FLOAT.dtype))), to=INT64.dtype)
    chunks = (length + size - 1) / size
    place = op.Unsqueeze(op.Range(0, op.Squeeze(size), 1), 1) + op.Range(0, op.Squeeze(chunks), 1) * size
    place = op.Min(place, length - 1)
    # [B, K, T, M] with T first.
    token = op.Transpose(op.Gather(steps, place, axis=2), perm=[2, 0, 1, 3])
    places = op.Expand(op.Range(0, op.Squeeze(length), 1), op.Shape(steps))
    seat = op.ScatterElements(places, steps, places, axis=2)  # [B, K, L]: the step at which a token is visited
    chunk = seat / size
    batch, directions = op.Shape(steps, end=1), op.Shape(steps, start=1, end=2)
    sequence = op.Reshape(
        op.Range(0, op.Squeeze(batch * directions), 1),
        op.Concat(batch, directions, op.Constant(value_ints=[1]), axis=0),
    )
    row = ((seat - chunk * size) * batch * directions + sequence) * chunks + chunk
    return token, row


@script(_DOMAIN)
def _rows_of(
    x: FLOAT[...],  # [B, K, L, C]
    token: INT64[...],  # [T, B, K, M]
) -> FLOAT[...]:  # [T, B, K, M, C]
    """The tokens' rows of x. If x has fewer directions than the tokens, each serves several neighbouring ones."""
    batch, groups, length = op.Shape(x, end=1), op.Shape(x, start=1, end=2), op.Shape(x, start=2, end=3)
    directions = op.Shape(token, start=2, end=3)
    group = op.Range(0, op.Squeeze(directions), 1) / (directions / groups)
    sample = op.Unsqueeze(op.Range(0, op.Squeeze(batch), 1), 1)
    first = op.Unsqueeze((sample * groups + group) * length, op.Constant(value_ints=[2]))  # [B, K, 1]
    rows = op.Concat(op.Constant(value_ints=[-1]), op.Shape(x, start=3), axis=0)
    return op.Gather(op.Reshape(x, rows), token + first)


@script(_DOMAIN)
def _states(
    decay: FLOAT[...],  # [T, B, K, M, D, N]
    drive: FLOAT[...],  # [T, B, K, M, D, N]
) -> FLOAT[...]:  # [T, B, K, M, D, N]
    """h ← decay · h + drive, chunk by chunk."""

    @graph()
    def step(h, product, a, b):
        h_next = a * h + b
        product_next = a * product
        h_out = op.Identity(h_next)
        product_out = op.Identity(product_next)
        return h_next, product_next, h_out, product_out

    @graph()
    def carry(state, end, product):
        before = op.Identity(state)
        after = product * state + end
        return after, before

    zero = op.Expand(0.0, op.Shape(decay, start=1))
    end, product, h, products = op.Scan(zero, zero + 1.0, decay, drive, body=step, num_scan_inputs=2)
    nothing = op.ReduceSum(zero, op.Constant(value_ints=[2]), keepdims=0)
    _, carried = op.Scan(
        nothing, end, product, body=carry, num_scan_inputs=2, scan_input_axes=[2, 2], scan_output_axes=[2]
    )
    return h + products * carried


def selective_scan(
    u: Any,
    delta: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any,
    delta_bias: Any,
    order: Any,
    reverse: Sequence[bool],
    delta_softplus: bool,
) -> tuple[Any, Any]:
    """``ssm_core::selective_scan`` in float32; the arguments are those of its schema."""
    after_directions = op.Constant(value_ints=[1])
    last = op.Constant(value_ints=[-1])
    if delta_bias is not None:
        delta = op.Add(delta, op.Unsqueeze(delta_bias, after_directions))
    if delta_softplus:
        delta = op.Softplus(delta)
    token, row = _in_chunks(_visits(delta, order, reverse))
    inputs, dt = _rows_of(u, token), _rows_of(delta, token)  # [T, B, K, M, D]
    decay = op.Exp(op.Mul(op.Unsqueeze(dt, last), op.Unsqueeze(A, after_directions)))
    weights = op.Unsqueeze(_rows_of(B, token), op.Constant(value_ints=[-2]))
    h = _states(decay, op.Mul(op.Unsqueeze(op.Mul(dt, inputs), last), weights))  # [T, B, K, M, D, N]
    y = op.ReduceSum(op.Mul(h, op.Unsqueeze(_rows_of(C, token), op.Constant(value_ints=[-2]))), last, keepdims=0)
    if D is not None:
        y = op.Add(y, op.Mul(op.Unsqueeze(D, after_directions), inputs))
    return _at_tokens(y, row, u), _last_state(h, row)


@script(_DOMAIN)
def _at_tokens(
    y: FLOAT[...],  # [T, B, K, M, D]
    row: INT64[...],  # [B, K, L]
    u: FLOAT[...],  # [B, G, L, D]
) -> FLOAT[...]:  # [B, G, L, D]
    """The results at the tokens' own places, summed over the directions of a group."""
    rows = op.Concat(op.Constant(value_ints=[-1]), op.Shape(y, start=4), axis=0)
    in_place = op.Gather(op.Reshape(y, rows), row)  # [B, K, L, D]
    groups = op.Concat(op.Shape(u, end=2), op.Constant(value_ints=[-1]), op.Shape(u, start=2), axis=0)
    return op.ReduceSum(op.Reshape(in_place, groups), op.Constant(value_ints=[2]), keepdims=0)


@script(_DOMAIN)
def _last_state(
    h: FLOAT[...],  # [T, B, K, M, D, N]
    row: INT64[...],  # [B, K, L]
) -> FLOAT[...]:  # [B, K, D, N]
    """The state after the last step, at the last place of the last chunk that is not beyond the end."""
    size, chunks = op.Shape(h, end=1), op.Shape(h, start=3, end=4)
    place = op.Shape(row, start=2) - (chunks - 1) * size - 1
    return op.Squeeze(op.Gather(op.Squeeze(op.Gather(h, place), op.Constant(value_ints=[0])), chunks - 1, axis=2), [2])


def _visits(delta: Any, order: Any, reverse: Sequence[bool]) -> Any:
    """The token visited at each step, ``[B, K, L]``."""
    shape = op.Shape(delta, end=3)
    length = op.Shape(delta, start=2, end=3)
    place = op.Range(0, op.Squeeze(length), 1)
    if order is None:
        order = op.Expand(place, shape)
    flips = op.Constant(value_ints=[int(flip) for flip in reverse])
    backwards = op.Sub(op.Sub(length, 1), place)
    place = op.Where(op.Cast(op.Unsqueeze(flips, op.Constant(value_ints=[1])), to=BOOL.dtype), backwards, place)
    return op.GatherElements(order, op.Expand(place, shape), axis=2)


TRANSLATIONS = {torch.ops.ssm_core.selective_scan.default: selective_scan}
