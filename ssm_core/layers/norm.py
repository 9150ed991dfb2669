"""Layer norms by this project's kernels, and the residual stream whose sums are computed together with its norms."""

from typing import NamedTuple

import torch
import torch.fx
import torch.nn.functional as F
from timm.layers import DropPath, LayerNorm
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from ssm_core.ops.norm import NormedStream, gated_layer_norm, layer_norm, residual_layer_norm
from ssm_core.ops.registry import has_kernel

from .recompute import recomputed

# Elements of the smallest map that a kernel of ours norms outside of a graph, by default. A call of it takes the host
# 30 µs more than one of PyTorch's, and 0.2 ms more with its backward pass. A smaller map does not win them back.
SMALLEST_ON_CPU = 2**20
SMALLEST_ON_GPU = 2**23


class Pending(NamedTuple):
    """A residual stream to which a branch has still to be added, so that the next norm can add it in its own pass."""

    stream: Tensor  # [B, ..., C]
    branch: Tensor  # [B, ..., C]
    scale: Tensor | None  # [B], a factor of the branch for every sample; None for 1


class FusedLayerNorm(LayerNorm):
    """A layer norm over the last dimension that is one pass over memory, forward and backward.

    It has the parameters of ``nn.LayerNorm`` under the same names. The result is rounded in the same pass. It has the
    dtype of the input, and under autocast that of a product or float32.

    Args:
        num_channels: number C of channels.
        eps: added to the variance.
        before_product: whether the result has the dtype of autocast, since products alone read it. Without it, the
            result is float32 under autocast, as that of ``nn.LayerNorm`` is on a GPU.
        recomputed: whether the backward pass computes the result again where ``torch.compile`` would keep it. This
            takes a forward pass of the norm, and is worth it where the result is larger than the input or is read by
            pointwise operations, which ``torch.compile`` would compute again with a norm of PyTorch's.
        always: False takes PyTorch's norm where it is as fast: for small maps, and in graphs for the CPU.
    """

    def __init__(
        self,
        num_channels: int,
        eps: float = 1e-6,
        before_product: bool = False,
        recomputed: bool = False,
        always: bool = True,
    ) -> None:
        super().__init__(num_channels, eps=eps)
        self.before_product, self.recomputed, self.always = before_product, recomputed, always

    @classmethod
    def of(
        cls, norm: nn.LayerNorm, before_product: bool = False, recomputed: bool = False, always: bool = True
    ) -> "FusedLayerNorm":
        """Return a fused norm that has the parameters of another norm, which are shared.

        Args:
            norm: a norm over one dimension, with a weight and a bias.
            before_product: see the class.
            recomputed: see the class.
            always: see the class.
        """
        with torch.device("meta"):
            fused = cls(norm.normalized_shape[0], norm.eps, before_product, recomputed, always)
        fused.weight, fused.bias = norm.weight, norm.bias
        return fused.train(norm.training)

    def forward(
        self,
        x: Tensor,  # [..., C]
    ) -> Tensor:  # [..., C]
        """Norm every token."""
        dtype = autocast_dtype(x, self.before_product)
        arguments = (x, self.weight, self.bias, self.eps, dtype, self.always)
        return recomputed(_norm, *arguments) if self.recomputed else _norm(*arguments)

    def is_changed(self) -> bool:
        """Whether a call of this norm may compute something else: it is hooked, or of a class with its own forward."""
        return is_hooked(self) or type(self).forward is not FusedLayerNorm.forward

    def gated(
        self,
        x: Tensor,  # [..., C]
        gate: Tensor,  # [..., C]
    ) -> Tensor:  # [..., C]
        """Norm every token, and multiply it by the SiLU of its gate."""
        if self.is_changed():
            product: Tensor = self(x) * F.silu(gate)
            return product
        dtype = autocast_dtype(x, self.before_product)
        return _gated_norm(x, gate, self.weight, self.bias, self.eps, dtype, self.always)

    def gates_in_one_type(
        self,
        x: Tensor,  # [..., C]
        gate: Tensor,  # [..., C]
    ) -> bool:
        """Whether ``gated`` of an unchanged norm is one operator of ours that reads and writes the dtype of ``x``."""
        one_type = autocast_dtype(x, self.before_product) == x.dtype == gate.dtype
        return one_type and (self.always or _saves_time(x))

    def add(
        self,
        x: Pending,
    ) -> NormedStream:
        """Add the branch to the stream, and norm the sum. Return the normed map and the sum."""
        if self.is_changed():
            stream = sum_of(x)
            return NormedStream(self(stream), stream)
        dtype = autocast_dtype(x.stream, self.before_product)
        return _residual_norm(x, self.weight, self.bias, self.eps, dtype, self.always)


class GatedNorm(NamedTuple):
    """The unchanged norm and the gate after a scan, for a scan that computes them in its own last pass."""

    norm: FusedLayerNorm
    gate: Tensor  # [..., C]

    def of(
        self,
        x: Tensor,  # [..., C]
    ) -> Tensor:  # [..., C]
        """Norm a map, and multiply it by the SiLU of the gate."""
        return self.norm.gated(x, self.gate)


def fuse_norms(model: nn.Module, always: bool = True) -> nn.Module:
    """Replace the layer norms of a network by fused ones, which have the same parameters under the same names.

    The blocks of this project's networks then add their branches in the pass of the next norm, too. Norms of other
    kinds, norms over several dimensions and norms without parameters stay.

    A class whose products alone read some of its norms lists their names as ``NORMS_BEFORE_PRODUCTS``, and those that
    the backward pass computes again as ``RECOMPUTED_NORMS``; see :class:`FusedLayerNorm`.

    Args:
        model: any network. It is changed in place.
        always: False takes PyTorch's norms where they are as fast; see :class:`FusedLayerNorm`. The networks of this
            project have such norms from the beginning.

    Returns:
        The model.
    """
    for parent in list(model.modules()):
        before_products = getattr(parent, "NORMS_BEFORE_PRODUCTS", ())
        computed_again = getattr(parent, "RECOMPUTED_NORMS", ())
        for name, child in parent.named_children():
            if isinstance(child, FusedLayerNorm):
                child.always = always
            # Other classes derived from these compute something else.
            if not isinstance(child, nn.LayerNorm) or type(child) not in (nn.LayerNorm, LayerNorm):
                continue
            if len(child.normalized_shape) == 1 and child.weight is not None and child.bias is not None:
                fused = FusedLayerNorm.of(child, name in before_products, name in computed_again, always)
                setattr(parent, name, fused)
    return model


def is_hooked(module: nn.Module) -> bool:
    """Whether only a call of a module itself runs all that users added to it.

    These are its hooks, the hooks of all modules, and a ``forward`` that was set on this object, as Accelerate does.
    """
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in module.__dict__ or bool(_has_any_global_hook())


@torch.fx.wrap  # a leaf of graphs, because it looks at dtypes
def autocast_dtype(x: Tensor, before_product: bool) -> torch.dtype:
    """Return the dtype that a norm of a tensor has under the present autocast; see :class:`FusedLayerNorm`."""
    kind = x.device.type
    # The meta device has no autocast.
    if x.dtype == torch.float64 or x.is_meta or not torch.is_autocast_enabled(kind):
        return x.dtype
    lower = torch.get_autocast_dtype(kind)
    return lower if before_product and x.dtype in (torch.float32, lower) else torch.float32


def pending(
    stream: Tensor,  # [B, ..., C]
    branch: Tensor,  # [B, ..., C]
    drop_path: nn.Module,
) -> Pending:
    """Leave a branch to the next norm to add. What stands in the place of timm's ``DropPath`` is called here."""
    if type(drop_path) in (DropPath, nn.Identity) and not is_hooked(drop_path):
        return Pending(stream, branch, drop_factors(branch, drop_path))
    return Pending(stream, drop_path(branch), None)


@torch.fx.wrap  # a leaf of graphs, because it looks at a size
def drop_factors(
    x: Tensor,  # [B, ..., C]
    drop_path: nn.Module,
) -> Tensor | None:  # [B]
    """Draw the factors by which stochastic depth multiplies the samples of a branch; None if it does nothing.

    The factors are those that timm's ``DropPath`` would draw.
    """
    if not isinstance(drop_path, DropPath) or not drop_path.training or drop_path.drop_prob == 0:
        return None
    keep = 1 - drop_path.drop_prob
    wide = torch.promote_types(x.dtype, torch.float32)
    factors = torch.empty(x.shape[:1], dtype=wide, device=x.device).bernoulli_(keep)
    return factors.div_(keep) if drop_path.scale_by_keep and keep > 0 else factors


@torch.fx.wrap  # a leaf of graphs, because the scale may be missing
def sum_of(x: Pending) -> Tensor:  # [B, ..., C]
    """Add the branch to the stream."""
    branch = x.branch.to(x.stream.dtype)
    if x.scale is not None:
        branch = branch * x.scale.to(branch.dtype).reshape(-1, *(1,) * (branch.dim() - 1))
    return x.stream + branch


def _norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype, always: bool) -> Tensor:
    if always or _saves_time(x):
        return layer_norm(x, weight, bias, eps, dtype)
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def _gated_norm(
    x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype, always: bool
) -> Tensor:
    if always or _saves_time(x):
        return gated_layer_norm(x, gate, weight, bias, eps, dtype)
    return F.layer_norm(x, weight.shape, weight, bias, eps) * F.silu(gate)


def _residual_norm(
    x: Pending, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype, always: bool
) -> NormedStream:
    if always or _saves_time(x.stream):
        return residual_layer_norm(x.branch, x.stream, weight, bias, eps, x.scale, dtype)
    stream = sum_of(x)
    return NormedStream(F.layer_norm(stream, weight.shape, weight, bias, eps), stream)


def _saves_time(x: Tensor) -> bool:
    """Whether a kernel of ours norms this map in less time than PyTorch, with what a call takes the host."""
    if x.is_cuda:
        fast = torch.compiler.is_compiling() or x.numel() >= SMALLEST_ON_GPU
    else:
        # A graph for the CPU fuses PyTorch's norm itself, and other runtimes know it.
        fast = not torch.compiler.is_compiling() and x.numel() >= SMALLEST_ON_CPU
    return fast and has_kernel("ssm_core::norm", x.device.type)


# These look at dtypes and sizes. Graphs of torch.fx call them as they are and do not look into them.
for _function in ("_gated_norm", "_norm", "_residual_norm"):
    torch.fx.wrap(_function)
