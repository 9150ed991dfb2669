"""The linear recurrence h_l = a_l · h_{l-1} + x_l on whole states, an operator that is closed under differentiation.

``ssm_core::linear_recurrence`` is what derivatives of the selective scan are made of. Its transpose is the recurrence
that runs backwards, and the derivative of either is made of both, so derivatives of every order follow.

It is plain PyTorch in O(log L) steps. Neighbouring steps compose to one, which leaves a recurrence of half the length;
its states are every second one of the whole, and each of the others is one step from its neighbour. Nothing is divided,
so decays may be zero. Time and memory are O(L).
"""

from typing import Any

import torch
from torch import Tensor

from ssm_core.ops.checks import shape_of
from ssm_core.ops.derivatives import register_derivatives
from ssm_core.ops.vmap import fold, register_rule, unfold

NAME = "ssm_core::linear_recurrence"
_STEPS = 2  # the dimension of the steps

_library = torch.library.Library("ssm_core", "FRAGMENT")


def linear_recurrence(
    decay: Tensor,  # [B, K, L, D, N]
    drive: Tensor,  # [B, K, L, D, N]
    transposed: bool = False,
) -> Tensor:
    """Compute h_l = decay_l · h_{l-1} + drive_l, or transposed h_l = decay_{l+1} · h_{l+1} + drive_l.

    Returns:
        h ``[B, K, L, D, N]``. The first decay is not used.
    """
    return torch.ops.ssm_core.linear_recurrence(decay, drive, transposed)


def previous(h: Tensor) -> Tensor:
    """The state before each step, zero before the first."""
    return torch.cat([torch.zeros_like(h[:, :, :1]), h[:, :, :-1]], dim=_STEPS)


def following(h: Tensor) -> Tensor:
    """The state after each step, zero after the last."""
    return torch.cat([h[:, :, 1:], torch.zeros_like(h[:, :, :1])], dim=_STEPS)


def _check(decay: Tensor, drive: Tensor) -> None:
    fits = drive.dim() == 5 and drive.shape[_STEPS] >= 1 and decay.shape == drive.shape and decay.dtype == drive.dtype
    if not fits or not drive.is_floating_point() or decay.device != drive.device:
        raise ValueError(
            "linear_recurrence: decay and drive must be alike, real [B, K, L, D, N] with L at least 1, got "
            f"{decay.dtype} {shape_of(decay)} on {decay.device} and {drive.dtype} {shape_of(drive)} on {drive.device}"
        )


def _recur(decay: Tensor, drive: Tensor, transposed: bool) -> Tensor:
    _check(decay, drive)
    return _backwards(decay, drive) if transposed else _forwards(decay, drive)


def _forwards(decay: Tensor, drive: Tensor) -> Tensor:
    length = drive.shape[_STEPS]
    if length == 1:
        return drive.clone(memory_format=torch.contiguous_format)
    half = length // 2
    even_decay, even, odd_decay, odd = decay[:, :, ::2], drive[:, :, ::2], decay[:, :, 1::2], drive[:, :, 1::2]
    states = _forwards(odd_decay * even_decay[:, :, :half], torch.addcmul(odd, odd_decay, even[:, :, :half]))
    h = torch.empty_like(drive, memory_format=torch.contiguous_format)
    h[:, :, 1::2] = states
    h[:, :, 0] = drive[:, :, 0]
    rest = even.shape[_STEPS] - 1
    h[:, :, 2::2] = torch.addcmul(even[:, :, 1:], even_decay[:, :, 1:], states[:, :, :rest])
    return h


def _backwards(decay: Tensor, drive: Tensor) -> Tensor:
    length = drive.shape[_STEPS]
    if length == 1:
        return drive.clone(memory_format=torch.contiguous_format)
    half = length // 2
    even_decay, even, odd_decay, odd = decay[:, :, ::2], drive[:, :, ::2], decay[:, :, 1::2], drive[:, :, 1::2]
    rest = even.shape[_STEPS] - 1
    # Step i of the shorter recurrence is the steps 2i and 2i + 1; the last is alone if the length is odd.
    pair_decay = torch.cat([even_decay[:, :, :1], odd_decay[:, :, :rest] * even_decay[:, :, 1:]], dim=_STEPS)
    pair = even.clone(memory_format=torch.contiguous_format)
    pair[:, :, :half].addcmul_(odd_decay, odd)
    states = _backwards(pair_decay, pair)
    h = torch.empty_like(drive, memory_format=torch.contiguous_format)
    h[:, :, ::2] = states
    h[:, :, 1::2] = odd
    h[:, :, 1 : 2 * rest : 2].addcmul_(even_decay[:, :, 1:], states[:, :, 1:])
    return h


def _fake(decay: Tensor, drive: Tensor, transposed: bool) -> Tensor:
    _check(decay, drive)
    return torch.empty_like(drive, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    decay, _, ctx.transposed = inputs
    ctx.save_for_backward(decay, output)


def _backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None
    decay, h = ctx.saved_tensors
    grad_drive = linear_recurrence(decay, grad, not ctx.transposed)
    if not ctx.needs_input_grad[0]:
        return None, grad_drive, None
    grad_decay = h * previous(grad_drive) if ctx.transposed else grad_drive * previous(h)
    return grad_decay, grad_drive, None


def _jvp(args: tuple[Any, ...], tangents: tuple[Tensor | None, ...]) -> Tensor | None:
    (decay, drive, transposed), (decay_tangent, drive_tangent, _) = args, tangents
    total = drive_tangent
    if decay_tangent is not None:
        h = linear_recurrence(decay, drive, transposed)
        change = following(decay_tangent * h) if transposed else decay_tangent * previous(h)
        total = change if total is None else total + change
    return None if total is None else linear_recurrence(decay, total, transposed)


def _vmap(info: Any, in_dims: tuple[Any, ...], decay: Tensor, drive: Tensor, transposed: bool) -> tuple[Tensor, int]:
    size = info.batch_size
    h = linear_recurrence(fold(decay, in_dims[0], size, 0), fold(drive, in_dims[1], size, 0), transposed)
    return unfold(h, size, 0)


_library.define("linear_recurrence(Tensor decay, Tensor drive, bool transposed) -> Tensor")
_library.impl("linear_recurrence", _recur, "CompositeExplicitAutograd")
torch.library.register_fake(NAME, _fake)
register_derivatives(_library, NAME, setup_context=_setup_context, backward=_backward, jvp=_jvp)
register_rule(NAME, _vmap)
