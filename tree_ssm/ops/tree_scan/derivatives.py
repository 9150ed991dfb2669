"""The tree scan and its gradient composed of its two passes, for forward mode and derivatives of higher orders.

P is the matrix that gives every vertex its parent's value, and w the diagonal matrix of the weights. The pass up solves
ξ = u + Pᵀ w ξ, and the pass down solves G = g + w P G. Each is linear and the transpose of the other, so that each is
the other's gradient, and this goes on to all orders. The kernels of the tree scan compute both.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssm_core.ops.checks import accumulate_dtype
from ssm_core.ops.derivatives import composite_jvp


class Passes(NamedTuple):
    """The trees along which the passes go, one for each sample of a batch."""

    parent: Tensor  # [B, L]
    order: Tensor  # [B, L]
    schedule: Tensor | None = None  # for the GPU, which makes one where there is none

    def up(
        self,
        u: Tensor,  # [B, L, D]
        weight: Tensor,  # [B, L, D], in the dtype of u, 0 at the root
    ) -> Tensor:  # [B, L, D]
        """Compute ξ_i = u_i + Σ_children w_c ξ_c."""
        return torch.ops.tree_ssm.tree_scan(u, weight, self.parent, self.order, False, self.schedule)

    def down(
        self,
        g: Tensor,  # [B, L, D]
        weight: Tensor,  # [B, L, D], in the dtype of g, 0 at the root
    ) -> Tensor:  # [B, L, D]
        """Compute G_i = g_i + w_i G_parent."""
        return torch.ops.tree_ssm.tree_scan_down(g, weight, *self)

    def of_parent(
        self,
        x: Tensor,  # [B, L, D]
    ) -> Tensor:  # [B, L, D]
        """Give every vertex its parent's value: P x. The root is its own parent."""
        if x.is_cuda:
            return x[self._rows()]
        return x.gather(1, self.parent.unsqueeze(-1).expand_as(x))

    def to_parent(
        self,
        x: Tensor,  # [B, L, D]
    ) -> Tensor:  # [B, L, D]
        """Sum the values of every vertex's children: Pᵀ x. The root also counts as its own child."""
        if x.is_cuda:
            return torch.zeros_like(x).index_put(self._rows(), x, accumulate=True)
        return torch.zeros_like(x).scatter_add(1, self.parent.unsqueeze(-1).expand_as(x), x)

    def _rows(self) -> tuple[Tensor, Tensor]:
        # An index adds in a fixed order on a GPU, and a scatter does not; on a CPU it is the other way round. What is
        # no tree gives results without meaning on a GPU, but it must not reach outside the tensors.
        batch, length = self.parent.shape
        sample = torch.arange(batch, device=self.parent.device).unsqueeze(1).expand(batch, length)
        return sample, self.parent.clamp(0, length - 1)

    def edge_weights(
        self,
        weight: Tensor,  # [B, L, D]
        dtype: torch.dtype,
    ) -> Tensor:  # [B, L, D]
        """The weights in a dtype. The root has no edge, and whatever is there becomes 0."""
        vertices = torch.arange(self.parent.shape[1], device=self.parent.device)
        return weight.to(dtype).masked_fill((self.parent == vertices).unsqueeze(-1), 0)


def tree_scan_composite(
    wanted: Sequence[bool],
    u: Tensor,  # [B, L, D]
    weight: Tensor,  # [B, L, D]
    parent: Tensor,  # [B, L]
    order: Tensor,  # [B, L]
    both: bool,
    schedule: Tensor | None = None,
) -> tuple[Tensor]:
    """Compute ``tree_ssm::tree_scan``: h = down((1 - w²) ξ) of ξ = up(u), or ξ alone."""
    passes, dtype = Passes(parent, order, schedule), accumulate_dtype(u.dtype)
    w = passes.edge_weights(weight, dtype)
    xi = passes.up(u.to(dtype), w)
    return ((passes.down((1 - w * w) * xi, w) if both else xi).to(u.dtype),)


def tree_scan_backward_composite(
    wanted: Sequence[bool],
    grad_h: Tensor,  # [B, L, D]
    u: Tensor,  # [B, L, D]
    weight: Tensor,  # [B, L, D]
    parent: Tensor,  # [B, L]
    order: Tensor,  # [B, L]
    both: bool,
    schedule: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Compute ``tree_ssm::tree_scan_backward``, the gradients of u and of the weights, as the README has them."""
    passes, dtype = Passes(parent, order, schedule), accumulate_dtype(u.dtype)
    w, g = passes.edge_weights(weight, dtype), grad_h.to(dtype)
    eta = passes.up(g, w) if both else g
    grad_u = passes.down((1 - w * w) * eta if both else g, w)
    if not wanted[1]:
        return grad_u.to(u.dtype), None
    xi = passes.up(u.to(dtype), w)
    if both:
        h = passes.down((1 - w * w) * xi, w)
        grad_w = eta * (passes.of_parent(h) - w * xi) + xi * (passes.of_parent(grad_u) - w * eta)
    else:
        grad_w = xi * passes.of_parent(grad_u)
    return grad_u.to(u.dtype), passes.edge_weights(grad_w, weight.dtype)


def tree_scan_jvp(args: tuple[Any, ...], tangents: tuple[Tensor | None, ...]) -> tuple[Tensor | None]:
    """The tangent of ``tree_ssm::tree_scan``: explicit for the pass up, of which the composite for both is made."""
    u, weight, parent, order, both, schedule = args
    if both:
        return composite_jvp(tree_scan_composite, outputs=1)(args, tangents)
    passes, dtype = Passes(parent, order, schedule), accumulate_dtype(u.dtype)
    w = weight.to(dtype)
    source, tangent_weight = tangents[:2]
    if tangent_weight is not None:
        xi = passes.up(u.to(dtype), w)
        through_weight = passes.to_parent(passes.edge_weights(tangent_weight, dtype) * xi)
        source = through_weight if source is None else source + through_weight
    return (None if source is None else passes.up(source.to(dtype), w).to(u.dtype),)


def down_jvp(args: tuple[Any, ...], tangents: tuple[Tensor | None, ...]) -> tuple[Tensor | None]:
    """The tangent of ``tree_ssm::tree_scan_down``."""
    g, weight, *trees = args
    passes = Passes(*trees)
    source, tangent_weight = tangents[:2]
    if tangent_weight is not None:
        down = passes.of_parent(passes.down(g, weight))
        through_weight = passes.edge_weights(tangent_weight, weight.dtype) * down
        source = through_weight if source is None else source + through_weight
    return (None if source is None else passes.down(source, weight),)


def down_gradients(grad: Tensor, result: Tensor, weight: Tensor, passes: Passes) -> tuple[Tensor, Tensor]:
    """The gradients of the argument and of the weights of ``tree_ssm::tree_scan_down``, from its result."""
    grad_g = passes.up(grad, weight)
    return grad_g, passes.edge_weights(grad_g * passes.of_parent(result), weight.dtype)
