"""Implements ``mamba_ssm.ops.selective_scan_interface.selective_scan_fn`` in plain PyTorch as mamba-ssm 2 documents it.

It is written from the published signature, from the shapes and dtypes that the documentation names, and from the
recurrence in "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (Gu and Dao 2023), equations 2a and 2b,
with Ā = exp(ΔA) and B̄ = ΔB. No code of that package is in it, and it calls none of this project. The module can take
the package's place in ``sys.modules``, since the package needs a GPU and a long compilation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan_fn(
    u: Tensor,  # [B, D, L]
    delta: Tensor,  # [B, D, L]
    A: Tensor,  # [D, N]
    B: Tensor,  # [D, N], [B, N, L] or [B, G, N, L]
    C: Tensor,  # as B
    D: Tensor | None = None,  # [D]
    z: Tensor | None = None,  # [B, D, L]
    delta_bias: Tensor | None = None,  # [D]
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return y ``[B, D, L]`` in the dtype of ``u``, and the last state ``[B, D, N]``, which has no gradient."""
    batch, channels, length = u.shape
    states = A.shape[1]
    _check(u, (batch, channels, length), u.dtype, "u")
    _check(delta, (batch, channels, length), u.dtype, "delta")
    _check(A, (channels, states), torch.float32, "A")
    weights = []
    for name, x in (("B", B), ("C", C)):
        groups = x.shape[1] if x.dim() == 4 else 1
        assert channels % groups == 0, f"{name} has {groups} groups for {channels} channels"
        forms = {2: (channels, states), 3: (batch, states, length), 4: (batch, groups, states, length)}
        _check(x, forms[x.dim()], torch.float32 if x.dim() == 2 else u.dtype, name)
        weights.append(_of_channels(x.double(), batch, channels, length))
    for name, x in (("D", D), ("delta_bias", delta_bias)):
        if x is not None:
            _check(x, (channels,), torch.float32, name)
    if z is not None:
        _check(z, (batch, channels, length), u.dtype, "z")

    step = delta.double()
    if delta_bias is not None:
        step = step + delta_bias.double().unsqueeze(-1)
    if delta_softplus:
        step = F.softplus(step)
    state, outputs = torch.zeros(batch, channels, states, dtype=torch.float64, device=u.device), []
    for t in range(length):
        now = step[:, :, t].unsqueeze(-1)
        state = torch.exp(now * A.double()) * state + now * weights[0][..., t] * u[:, :, t].double().unsqueeze(-1)
        outputs.append((state * weights[1][..., t]).sum(-1))
    y = torch.stack(outputs, dim=-1)
    if D is not None:
        y = y + D.double().unsqueeze(-1) * u.double()
    if z is not None:
        y = y * F.silu(z.double())
    y = y.to(u.dtype)
    return (y, state.detach().float()) if return_last_state else y


def _check(x: Tensor, shape: tuple[int, ...], dtype: torch.dtype, name: str) -> None:
    assert x.shape == shape, f"{name} is {tuple(x.shape)}, not {shape}"
    assert x.dtype == dtype, f"{name} is {x.dtype}, not {dtype}"


def _of_channels(x: Tensor, batch: int, channels: int, length: int) -> Tensor:
    """Bring any form of B and C to ``[B, D, N, L]``. The channels of a group lie side by side."""
    if x.dim() == 2:
        return x[None, :, :, None].expand(batch, -1, -1, length)
    x = x.unsqueeze(1) if x.dim() == 3 else x
    return torch.stack([x[:, d * x.shape[1] // channels] for d in range(channels)], dim=1)
