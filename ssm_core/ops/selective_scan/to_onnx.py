"""The selective scan in ONNX's standard operators, in some 2·∛L steps instead of L.

The sequence is cut into chunks. A ``Scan`` walks all chunks side by side, each from a state of zero, and keeps the
products of the decays. Doubling carries the state from chunk to chunk: one step joins pairs of chunks, the next one
fours, and so on. The state that a chunk receives, times those products, is then added to the chunk's states. Nothing is
divided, and products of decays lie between 0 and 1.
"""

from collections.abc import Sequence
from typing import Any

import torch
from onnxscript import BOOL, FLOAT, INT64, graph, script
from onnxscript.onnx_opset import opset18 as op
from onnxscript.values import Opset

from ssm_core.ops.registry import Table

_DOMAIN = Opset("ssm_core", 1)
_EXACT = 20.0  # log(1 + exp(x)) is x from here on, in float32


@script(_DOMAIN)
def _in_chunks(
    steps: INT64[...],  # [B, K, L]
) -> tuple[INT64[...], INT64[...]]:  # [T, B, K, M]; [B, K, L]
    """The token at each place of the chunks ``[T, B, K, M]``, and each token's row in that tensor, ``[B, K, L]``.

    Chunk m holds the places m·T … m·T + T - 1. Places beyond the end repeat the last token, after all that counts.
    """
    length = op.Shape(steps, start=2)  # [1]
    # A step of the doubling takes as much work as one of the Scan, and reads and writes fewer numbers in long chunks.
    size = op.Cast(op.Ceil(2.0 * op.Pow(op.Cast(length, to=FLOAT.dtype), 0.3333)), to=INT64.dtype)
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
    decay: FLOAT[...],  # [T, B, K, M, ...]
    drive: FLOAT[...],  # [T, B, K, M, ...]
) -> FLOAT[...]:  # [T, B, K, M, ...]
    """The states h ← decay · h + drive after every step."""

    @graph()
    def step(h, product, a, b):
        h_next = a * h + b
        product_next = a * product
        h_out = op.Identity(h_next)
        product_out = op.Identity(product_next)
        return h_next, product_next, h_out, product_out

    zero = op.Expand(0.0, op.Shape(decay, start=1))
    end, product, h, products = op.Scan(zero, zero + 1.0, decay, drive, body=step, num_scan_inputs=2)
    # After a step, ``end`` holds the states after twice as many chunks, and ``product`` the decays over these.
    axis = op.Constant(value_ints=[2])
    chunks = op.Shape(decay, start=3, end=4)
    reach = op.Constant(value_ints=[1])
    active = op.Squeeze(reach < chunks)
    while active:
        kept, first = chunks - reach, op.Constant(value_ints=[0])
        later = op.Slice(product, reach, chunks, axis)
        joined = op.Slice(end, reach, chunks, axis) + later * op.Slice(end, first, kept, axis)
        decayed = later * op.Slice(product, first, kept, axis)
        end = op.Concat(op.Slice(end, first, reach, axis), joined, axis=2)
        product = op.Concat(op.Slice(product, first, reach, axis), decayed, axis=2)
        reach = reach * 2
        active = op.Squeeze(reach < chunks)
    carried = op.Concat(zero[:, :, :1], op.Slice(end, op.Constant(value_ints=[0]), chunks - 1, axis), axis=2)
    return h + products * carried


def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """``aten::softplus``, log(1 + exp(βx)) / β, and x where βx is above the threshold.

    ONNX Runtime's ``Softplus`` takes twice as long. With y = exp(-|βx|), the rounding of 1 + y is added back to its
    logarithm. From 20 on the result is x in float32 in any case.
    """
    scaled = x if beta == 1 else op.Mul(x, op.CastLike(op.Constant(value_float=beta), x))
    y = op.Exp(op.Neg(op.Abs(scaled)))
    one = op.CastLike(op.Constant(value_float=1.0), x)
    rounded = op.Add(y, one)
    result = op.Add(op.Relu(scaled), op.Add(op.Log(rounded), op.Sub(y, op.Sub(rounded, one))))
    if threshold < _EXACT:
        result = op.Where(op.Greater(scaled, op.CastLike(op.Constant(value_float=threshold), x)), scaled, result)
    return result if beta == 1 else op.Div(result, op.CastLike(op.Constant(value_float=beta), x))


def log_sigmoid(x: Any) -> Any:
    """``aten::log_sigmoid``, the logarithm of a probability that a layer predicts.

    Torch's own translation is the logarithm of ``Sigmoid``. In ONNX Runtime that is -inf below -18 and 0 above 17, so
    that confident scores could not be told apart.
    """
    return op.Neg(softplus(op.Neg(x)))


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
        delta = softplus(delta)
    # The groups share their input: [B, G, K/G, L, D] for a moment.
    groups = op.Concat(op.Shape(u, end=2), last, op.Shape(u, start=2), axis=0)
    drive = op.Reshape(op.Mul(op.Reshape(delta, groups), op.Unsqueeze(u, op.Constant(value_ints=[2]))), op.Shape(delta))
    token, row = _in_chunks(_visits(delta, order, reverse))
    dt, drive, weights = _rows_of(delta, token), _rows_of(drive, token), _rows_of(B, token)  # [T, B, K, M, D or N]
    if A.shape[2] == 1:
        # The axis of the states comes last but for the channels, where it costs nothing.
        decay = op.Exp(op.Mul(dt, op.Transpose(A, perm=[0, 2, 1])))
        h = _states(decay, op.Mul(drive, weights))  # [T, B, K, M, D]
        y = op.Mul(_at_tokens(h, row), C)
        h = op.Unsqueeze(h, last)
    else:
        decay = op.Exp(op.Mul(op.Unsqueeze(dt, last), op.Unsqueeze(A, after_directions)))
        h = _states(decay, op.Mul(op.Unsqueeze(drive, last), op.Unsqueeze(weights, op.Constant(value_ints=[-2]))))
        weights = op.Unsqueeze(_rows_of(C, token), op.Constant(value_ints=[-2]))
        y = _at_tokens(op.ReduceSum(op.Mul(h, weights), last, keepdims=0), row)
    y = op.ReduceSum(op.Reshape(y, groups), op.Constant(value_ints=[2]), keepdims=0)  # [B, G, L, D]
    if D is not None:
        of_groups = op.Reshape(D, op.Concat(op.Shape(u, start=1, end=2), last, op.Shape(D, start=1), axis=0))
        y = op.Add(y, op.Mul(u, op.ReduceSum(of_groups, after_directions)))
    return y, _last_state(h, row)


@script(_DOMAIN)
def _at_tokens(
    y: FLOAT[...],  # [T, B, K, M, D]
    row: INT64[...],  # [B, K, L]
) -> FLOAT[...]:  # [B, K, L, D]
    """The results at the tokens' own places."""
    return op.Gather(op.Reshape(y, op.Concat(op.Constant(value_ints=[-1]), op.Shape(y, start=4), axis=0)), row)


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


TRANSLATIONS: Table = {
    torch.ops.ssm_core.selective_scan.default: selective_scan,
    torch.ops.aten.log_sigmoid.default: log_sigmoid,
    torch.ops.aten.softplus.default: softplus,
}
