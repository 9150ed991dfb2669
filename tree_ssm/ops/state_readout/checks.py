"""Checks of what the two readouts have in common."""

from torch import Tensor

from ssm_core.ops.backend import Backend
from ssm_core.ops.checks import require_same_device, shape_of


def check_readout(
    op: str,
    h: Tensor,  # [B, L, D]
    x: Tensor,  # [B, L, D]
    C: Tensor,  # [B, L]
    maps: dict[str, Tensor],  # [B, L, D]
    parameters: dict[str, Tensor],  # [D]
) -> None:
    """Raise a ValueError if a tensor does not fit x. The message says which.

    Args:
        op: the public function's name, for messages.
        h: state.
        x: input.
        C: output weight of each token.
        maps: further maps by name, of the shape and dtype of ``x``.
        parameters: the numbers of each channel, by name.
    """
    if x.dim() != 3 or not x.dtype.is_floating_point:
        raise ValueError(f"{op}: x must be real [B, L, D], got {x.dtype} {shape_of(x)}")
    maps = {"h": h, **maps}
    for name, value in maps.items():
        if value.shape != x.shape:
            raise ValueError(f"{op}: {name} must have x's shape {shape_of(x)}, got {shape_of(value)}")
    if C.shape != x.shape[:2]:
        raise ValueError(f"{op}: C must be [B, L] = {shape_of(x)[:2]}, got {shape_of(C)}")
    for name, value in parameters.items():
        if value.shape != x.shape[2:]:
            raise ValueError(f"{op}: {name} must be [D] with D = {x.shape[2]}, got {shape_of(value)}")
    require_same_device(op, x=x, C=C, **maps, **parameters)
    for name, value in maps.items():
        if value.dtype != x.dtype:
            raise ValueError(f"{op}: {name} must be {x.dtype} as x, got {value.dtype}")


def backend_that_fits(op: str, backend: Backend, x: Tensor, most: int, most_in_fours: int) -> Backend:
    """Return the backend, or the reference instead of ``"auto"`` if x has too many channels for the GPU kernel.

    Raises:
        ValueError: x has too many channels for the backend ``"cuda"``, which was asked for.
    """
    channels = x.shape[2]
    if x.device.type != "cuda" or channels <= (most if channels % 4 else most_in_fours):
        return backend
    if backend == "cuda":
        raise ValueError(
            f"{op}: backend 'cuda' takes at most {most} channels, or {most_in_fours} in fours, got {channels}"
        )
    return "reference" if backend == "auto" else backend
