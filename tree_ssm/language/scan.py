"""The selective scan along trees of tokens, from the leaves to the root, in blocks of channels."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ssm_core.ops.checks import accumulate_dtype
from tree_ssm.ops import Tree, tree_scan

from .configuration import EdgeDecay


def selective_tree_scan(
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
