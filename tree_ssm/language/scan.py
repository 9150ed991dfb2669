"""The selective scan along trees of tokens, from the leaves to the root, in blocks of channels."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ssm_core.ops import selective_scan
from ssm_core.ops.checks import accumulate_dtype
from tree_ssm.ops import Tree, tree_scan

from .configuration import ChainBackend, EdgeDecay
from .kernels import resolve_chain_backend

_SHORT = 2.0**-50


def prompt_tree_scan(
    x: Tensor,  # [B, L, D]
    delta: Tensor,  # [B, L, D]
    A: Tensor,  # [D, N]
    B: Tensor,  # [B, L, N]
    C: Tensor,  # [B, L, N]
    tree: Tree,
    decay: EdgeDecay,
    max_elements: int,
) -> tuple[Tensor, Tensor]:
    """h_t = Δ_t B_t x_t + Σ_children w_c h_c, y_t = C_t·h_t (MambaTree, Algorithm 2, the pass from the leaves).

    The states are B·L·D·N numbers, sixteen times the input for Mamba's N. Channels do not know each other, so they are
    taken in blocks of at most ``max_elements`` states; of a block only the inputs are kept for the backward pass,
    which computes its states again. States lie N × D, channels innermost: one tree over N·D channels.

    Args:
        x: input; its dtype is that of the states' inputs, whose sums and decays are float32 (float64) all the same.
        delta: step size Δ, after softplus.
        A: decay, negative.
        B: input weights.
        C: output weights.
        tree: what to scan along; the last token is its root.
        decay: w_t = exp(Δ_{t+1} A) for ``"next"``, exp(Δ_t A) for ``"own"``.
        max_elements: states held at a time, as a number of numbers.

    Returns:
        y ``[B, L, D]``, and the state of the last token ``[B, D, N]``.
    """
    batch, length, channels = x.shape
    states = A.shape[1]
    # The root's weight is not used, so that it may be any token's.
    of_edge = delta.roll(-1, dims=1) if decay == "next" else delta
    block = max(1, min(channels, max_elements // max(1, batch * length * states)))
    keep = torch.is_grad_enabled()
    outputs, last = [], []
    for begin in range(0, channels, block):
        part = slice(begin, begin + block)
        arguments = (x[..., part], delta[..., part], of_edge[..., part], A[part], B, C, tree)
        if keep:
            y, state = checkpoint(_scan_block, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            y, state = _scan_block(*arguments)
        outputs.append(y)
        last.append(state)
    return torch.cat(outputs, dim=-1), torch.cat(last, dim=1)


def chain_from(
    state: Tensor,  # [B, D, N]
    x: Tensor,  # [B, L, D]
    delta: Tensor,  # [B, L, D]
    A: Tensor,  # [D, N]
    B: Tensor,  # [B, L, N]
    C: Tensor,  # [B, L, N]
    backend: ChainBackend,
) -> tuple[Tensor, Tensor]:
    """The chain h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t x_t that begins with a state, y_t = C_t·h_t.

    No kernel for the chain takes a state, so it comes as N tokens before the others: the n-th brings the states n of
    all channels, in a step so short that nothing decays: Δ = ε, B = e_n / ε, x = state. ε is a power of two, hence
    Δ·B·x exact, and exp(ε·A) is 1 but for the last bit of float64.

    Args:
        state: h before the first token.
        x: input.
        delta: step size, after softplus, in float32 at least.
        A: decay.
        B: input weights.
        C: output weights.
        backend: see :class:`MambaTreeConfig`.

    Returns:
        y ``[B, L, D]`` in the dtype of ``delta``, and the last state ``[B, D, N]``.
    """
    batch, states, wide = x.shape[0], A.shape[1], delta.dtype
    brought = state.to(wide).transpose(1, 2)  # [B, N, D]
    weights = torch.eye(states, dtype=wide, device=x.device).div(_SHORT).expand(batch, -1, -1)
    y, last = selective_scan(
        torch.cat([brought, x.to(wide)], dim=1).transpose(1, 2),
        torch.cat([torch.full_like(brought, _SHORT), delta], dim=1).transpose(1, 2),
        A,
        torch.cat([weights, B.to(wide)], dim=1).transpose(1, 2),
        torch.cat([torch.zeros_like(weights), C.to(wide)], dim=1).transpose(1, 2),
        return_last_state=True,
        backend=resolve_chain_backend(backend, x.device),
    )
    return y.transpose(1, 2)[:, states:], last


def _scan_block(
    x: Tensor,  # [B, L, D']
    delta: Tensor,  # [B, L, D']
    of_edge: Tensor,  # [B, L, D']
    A: Tensor,  # [D', N]
    B: Tensor,  # [B, L, N]
    C: Tensor,  # [B, L, N]
    tree: Tree,
) -> tuple[Tensor, Tensor]:
    """y ``[B, L, D']`` and the last token's state ``[B, D', N]`` of some channels."""
    wide = accumulate_dtype(x.dtype)
    weight = (of_edge.to(wide).unsqueeze(2) * A.t().to(wide)).exp()  # [B, L, N, D']
    v = delta.to(wide) * x.to(wide)
    source = (v.to(x.dtype).unsqueeze(2) * B.to(x.dtype).unsqueeze(3)).flatten(2)
    h = tree_scan(source, weight.flatten(2), tree, direction="up").unflatten(2, (A.shape[1], A.shape[0]))
    y = torch.matmul(C.to(h.dtype).unsqueeze(2), h).squeeze(2)  # one product with h, which is not copied for it
    return y, h[:, -1].transpose(1, 2)
