"""Makes right arguments hostile, one kind of harm at a time."""

import math

import torch
from torch import Tensor

from .drawing import Draw

INTEGERS = (-(2**63), -(2**31), -1, 0, 1, 2, 3, 5, 2**31 - 1, 2**31, 2**32 + 1, 2**62, 2**63 - 1, 2**63)
SMALLER = tuple(n for n in INTEGERS if n != 2**31 - 1)  # without the one that is a size, and takes gigabytes
NUMBERS = (0.0, -1.0, math.nan, math.inf, -math.inf, 1e308, 1e-320)
DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool,
    torch.complex64,
)  # fmt: skip


def mutate(draw: Draw, value: object) -> tuple[str, object]:
    """What was done to an argument, in words, and the argument that came of it."""
    if isinstance(value, Tensor):
        # Indices are what leads out of a tensor, so their values are harmed most.
        is_index = value.dtype in (torch.int64, torch.int32) and draw.chance(0.6)
        kind = draw.random.choice((_values, _values, _shuffled, expanded) if is_index else HARMS)
        try:
            changed = kind(draw, value)
        except RuntimeError:  # torch has no such tensor, for example no strides of a sparse one
            return "nothing", value
        # A GPU's kernels do not look at indices, since that would wait for the device: wrong ones give anything.
        if draw.device != "cpu" and value.dtype in (torch.int64, torch.int32) and kind in OTHER_VALUES:
            draw.comparable = False
        return kind.__name__.strip("_"), changed
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a Tree
        name = draw.random.choice(value._fields)
        what, changed = mutate(draw, getattr(value, name))
        return f"{what} of {name}", value._replace(**{name: changed})
    if isinstance(value, bool):
        return "flipped", not value
    if isinstance(value, int):
        value = draw.random.choice(INTEGERS if draw.large else SMALLER)
    elif isinstance(value, float):
        draw.comparable = False
        value = draw.random.choice(NUMBERS)
    elif isinstance(value, list | tuple):
        value = type(value)(draw.random.choice(([], [*value, *value], value[:-1], list(reversed(value)))))
    elif isinstance(value, str):
        value = draw.random.choice(("", "cosine ", "both"))
    return f"set to {value}", value


def _reshaped(draw: Draw, x: Tensor) -> Tensor:
    if x.dim() == 0:
        return x[None]
    dim = draw.random.randrange(x.dim())
    size = draw.random.choice((0, 1, 2, x.shape[dim] + 1, 1000, 2**31, 2**40, 2**62))
    choice = draw.random.randrange(4)
    if choice == 0:
        return x.unsqueeze(dim)
    if choice == 1:
        return x.select(dim, 0) if x.shape[dim] else x.flatten()
    if choice == 2:
        return x.narrow(dim, 0, min(size, x.shape[dim]))
    return x.narrow(dim, 0, min(1, x.shape[dim])).expand(*x.shape[:dim], size, *x.shape[dim + 1 :])


def _dtype(draw: Draw, x: Tensor) -> Tensor:
    small = x if x.numel() <= 2**16 else x.flatten()[:0]
    return small.to(draw.random.choice(DTYPES))


def strides(draw: Draw, x: Tensor) -> Tensor:
    """The same values elsewhere in memory."""
    if x.numel() > 2**16 or x.dim() == 0:
        return x
    choice, dim = draw.random.randrange(4), draw.random.randrange(x.dim())
    if choice == 0:
        return x.transpose(0, dim).contiguous().transpose(0, dim)
    if choice == 1:
        return x.mT.contiguous().mT if x.dim() > 1 else x
    if choice == 2:  # a part of wider rows, which begins anywhere
        return torch.cat([x, x, x], dim=dim).narrow(dim, x.shape[dim], x.shape[dim])
    return torch.stack([x, x], dim=-1)[..., 1]


def expanded(draw: Draw, x: Tensor) -> Tensor:
    """One row in place of all."""
    if x.numel() == 0 or x.dim() == 0:
        return x
    dim = draw.random.randrange(x.dim())
    return x.narrow(dim, 0, 1).expand(x.shape)


def _overlapping(draw: Draw, x: Tensor) -> Tensor:
    """Elements that share memory, as in a sliding window."""
    if x.numel() in (0, 1) or x.numel() > 2**16:
        return x
    strides = [draw.random.randrange(2) for _ in x.shape]
    return x.contiguous().as_strided(x.shape, strides, 0) if sum(x.shape) <= x.numel() + 1 else x


def _device(draw: Draw, x: Tensor) -> Tensor:
    if draw.device != "cpu" and draw.chance(0.5) and x.numel() <= 2**16:
        return x.cpu()
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


def _values(draw: Draw, x: Tensor) -> Tensor:
    """Some elements replaced by what should not be there."""
    if x.numel() == 0 or x.numel() > 2**16 or x.dtype == torch.bool or x.dtype.is_complex:
        return x
    x = x.clone(memory_format=torch.contiguous_format)
    count = draw.random.choice((1, 1, 3, x.numel()))
    where = torch.randint(x.numel(), (count,), generator=draw.generator).to(x.device)
    if x.dtype.is_floating_point:
        draw.comparable = False
        bad = draw.random.choice((math.nan, math.inf, -math.inf, 1e4, -1e4, 6e4))
        x.view(-1)[where] = bad
    elif x.dtype == torch.int32:  # a schedule
        most = draw.random.choice((2**31 - 1, 1000, x.numel()))
        noise = torch.randint(-most, most, (count,), generator=draw.generator)
        x.view(-1)[where] = noise.to(x)
    else:
        most = x.shape[-1] if x.dim() else 1
        bad = draw.random.choice((-1, 0, 1, most - 1, most, 2**31, 2**32, 2**62, -(2**63), 2**63 - 1))
        x.view(-1)[where] = max(min(bad, torch.iinfo(x.dtype).max), torch.iinfo(x.dtype).min)
    return x


def _shuffled(draw: Draw, x: Tensor) -> Tensor:
    """The values in another order: cycles among parents, children before parents, other rows."""
    if x.numel() > 2**16 or x.numel() == 0 or x.dim() == 0:
        return x
    if draw.chance(0.5):
        return x.roll(1, -1)
    return x.flatten()[torch.randperm(x.numel(), generator=draw.generator).to(x.device)].view(x.shape)


def _leaf(draw: Draw, x: Tensor) -> Tensor:
    return x.detach().requires_grad_() if x.dtype.is_floating_point else x


def negated(draw: Draw, x: Tensor) -> Tensor:
    """A view with the bit that says: all values are negated."""
    if x.dtype.is_floating_point and x.numel() <= 2**16:
        return torch._neg_view(x.neg())
    return x


def _conjugated(draw: Draw, x: Tensor) -> Tensor:
    return x.to(torch.complex64).conj() if x.numel() <= 2**16 else x


def _sparse(draw: Draw, x: Tensor) -> Tensor:
    return x.to_sparse() if 0 < x.numel() <= 2**12 else x


def _missing(draw: Draw, x: Tensor) -> None:
    return None


OTHER_VALUES = (_values, _shuffled, expanded, _overlapping)
HARMS = (
    _reshaped, _reshaped, _dtype, strides, strides, expanded, _overlapping, _device, _values, _values, _shuffled,
    _leaf, negated, _conjugated, _sparse, _missing,
)  # fmt: skip
