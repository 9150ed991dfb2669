"""The token mixer that contains a scan, and the residual block that contains the mixer."""

from typing import Any

import torch.fx
import torch.nn.functional as F
from timm.layers import DropPath, LayerNorm, LayerScale
from torch import Tensor, nn

from ssm_core.ops.depthwise_conv import depthwise_conv, depthwise_conv_for
from ssm_core.ops.registry import has_kernel

from .convolution import to_channels_first, to_channels_last
from .mlp import FusedMlp
from .norm import FusedLayerNorm, GatedNorm, Pending, is_hooked, pending, sum_of
from .recompute import traces_training
from .ssm import SelectiveSSM


class ScanMixer(nn.Module):
    """The token mixer: Linear → depthwise conv 3×3 → SiLU → scan → LN (→ × SiLU of a gate) → Linear.

    Args:
        dim: number C of channels of the block.
        scan: the scan; its ``inner_dim`` is D.
        gated: whether the mixer multiplies the result by a gate, which is a second projection of the input.
        conv_bias: whether the depthwise convolution has a bias.

    Attributes:
        fused_conv: whether the convolution and its SiLU are one operator; None for on a GPU alone. See
            :func:`fuse_convolutions`.
    """

    NORMS_BEFORE_PRODUCTS = ("out_norm",)
    fused_conv: bool | None = None

    def __init__(self, dim: int, scan: SelectiveSSM, gated: bool, conv_bias: bool) -> None:
        super().__init__()
        inner = scan.inner_dim
        self.in_proj = nn.Linear(dim, inner, bias=False)
        # The gate has its own projection. The halves of one shared projection would be strided, and every layer that
        # reads them would have to copy them.
        self.gate_proj = nn.Linear(dim, inner, bias=False) if gated else None
        self.conv = nn.Conv2d(inner, inner, kernel_size=3, padding=1, groups=inner, bias=conv_bias)
        self.scan = scan
        self.out_norm = LayerNorm(inner, eps=1e-5)
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def forward(
        self,
        x: Tensor,  # [B, H, W, C]
        previous: Any = None,
    ) -> tuple[Tensor, Any]:
        """Mix the tokens. Return the result ``[B, H, W, C]`` and what the scan chose."""
        projected = self.in_proj(x)
        readers = self._separate_readers(projected)
        features: Tensor | tuple[Tensor, ...]
        if readers > 1:
            features = depthwise_conv_for(readers, projected, self.conv.weight, self.conv.bias)
        else:
            features = _convolve(projected, self.conv, self.fused_conv)
        norm = None if isinstance(x, torch.fx.Proxy) else self.out_norm  # see Block.forward
        if isinstance(norm, FusedLayerNorm) and self.gate_proj is not None and self._scan_takes(norm):
            y, chosen = self.scan(features, previous, GatedNorm(norm, self.gate_proj(x)))
            return self.out_proj(y), chosen
        y, chosen = self.scan(features, previous)
        if self.gate_proj is None:
            return self.out_proj(self.out_norm(y)), chosen
        gate = self.gate_proj(x)
        if isinstance(norm, FusedLayerNorm):
            return self.out_proj(norm.gated(y, gate)), chosen
        return self.out_proj(self.out_norm(y) * F.silu(gate)), chosen

    def _scan_takes(self, norm: FusedLayerNorm) -> bool:
        """Whether the scan takes the norm and the gate after it, because nobody looks at the map between them."""
        takes: bool = getattr(type(self.scan).forward, "norms_and_gates", False)
        return takes and not is_hooked(self.scan) and not norm.is_changed()

    def _separate_readers(
        self,
        x: Tensor,  # [B, H, W, D]
    ) -> int:
        """Return for how many readers the convolution returns its map: 1, or in a compiled step what the scan says."""
        readers: int = getattr(type(self.scan).forward, "readers", 1)
        plain = readers > 1 and traces_training() and not is_hooked(self.scan)
        return readers if plain and _is_one_operator(x, self.conv, self.fused_conv) else 1


class Block(nn.Module):
    """The residual block: ``x + mixer(LN(x))``, then ``x + mlp(LN(x))``.

    Both branches have stochastic depth. They can also have a layer scale.

    Args:
        dim: number C of channels.
        mixer: the token mixer.
        mlp_ratio: hidden width of the MLP, divided by C.
        drop_path: the probability that a branch is dropped, drawn for every sample and branch.
        layer_scale: initial value of the layer scales; None for no layer scales.
        norm_eps: epsilon of the norms.
    """

    NORMS_BEFORE_PRODUCTS = ("norm1", "norm2")

    def __init__(
        self, dim: int, mixer: ScanMixer, mlp_ratio: float, drop_path: float, layer_scale: float | None, norm_eps: float
    ) -> None:
        super().__init__()

        def scale() -> nn.Module:
            return nn.Identity() if layer_scale is None else LayerScale(dim, init_values=layer_scale)

        self.norm1 = LayerNorm(dim, eps=norm_eps)
        self.mixer = mixer
        self.scale1 = scale()
        self.norm2 = LayerNorm(dim, eps=norm_eps)
        self.mlp = FusedMlp(dim, int(mlp_ratio * dim))
        self.scale2 = scale()
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(
        self,
        x: Tensor | Pending,  # [B, H, W, C]
        previous: Any = None,
        leave_sum: bool = False,
    ) -> tuple[Tensor | Pending, Any]:
        """Run the block. Return the map and what the scan chose, which the stage passes to the next block.

        With ``leave_sum`` and fused norms (:func:`~ssm_core.layers.fuse_norms`), the last branch is left to the next
        norm to add.
        """
        # Those who take features by name from graphs of torch.fx expect the norms in them under their names.
        traced = isinstance(x, torch.fx.Proxy)
        if isinstance(self.norm1, FusedLayerNorm) and isinstance(self.norm2, FusedLayerNorm) and not traced:
            return self._with_fused_norms(self.norm1, self.norm2, x, previous, leave_sum)
        if isinstance(x, Pending):
            x = sum_of(x)
        y, chosen = self.mixer(self.norm1(x), previous)
        x = x + self.drop_path(self.scale1(y))
        x = x + self.drop_path(self.scale2(self.mlp(self.norm2(x))))
        return x, chosen

    def _with_fused_norms(
        self, norm1: FusedLayerNorm, norm2: FusedLayerNorm, x: Tensor | Pending, previous: Any, leave_sum: bool
    ) -> tuple[Tensor | Pending, Any]:
        normed, x = norm1.add(x) if isinstance(x, Pending) else (norm1(x), x)
        y, chosen = self.mixer(normed, previous)
        normed, x = norm2.add(pending(x, self.scale1(y), self.drop_path))
        result = pending(x, self.scale2(self.mlp(normed)), self.drop_path)
        return result if leave_sum else sum_of(result), chosen

    def leaves_sums(self) -> bool:
        """Whether a stage can ask this block to leave its last sum, because nobody else looks at the block's maps."""
        return type(self).forward is Block.forward and not is_hooked(self)


@torch.fx.wrap  # a leaf of graphs, because it looks at the device
def _convolve(
    x: Tensor,  # [B, H, W, D]
    conv: nn.Conv2d,
    fused: bool | None,
) -> Tensor:  # [B, H, W, D]
    """Run the depthwise convolution and SiLU, as one operator if ``fused``. None fuses them on a GPU."""
    if _is_one_operator(x, conv, fused):
        return depthwise_conv(x, conv.weight, conv.bias)
    return F.silu(to_channels_last(conv(to_channels_first(x))))


def _is_one_operator(x: Tensor, conv: nn.Module, fused: bool | None) -> bool:
    if fused is None:
        fused = x.is_cuda and has_kernel("ssm_core::depthwise_conv", "cuda")
    return fused and _is_plain(conv)


def _is_plain(conv: nn.Module) -> bool:
    """Whether a layer is the depthwise convolution that the operator computes.

    What users put in its place, such as a wrapper of PEFT's or a larger window, is something else.
    """
    if type(conv) is not nn.Conv2d or is_hooked(conv):
        return False
    depthwise = conv.groups == conv.in_channels == conv.out_channels
    windows = conv.kernel_size == (3, 3) and conv.stride == conv.padding == conv.dilation == (1, 1)
    return depthwise and windows and conv.padding_mode == "zeros"


def fuse_convolutions(model: nn.Module, fused: bool | None = True) -> nn.Module:
    """Choose whether the mixers of a network compute their depthwise convolution and its SiLU as one operator.

    The operator reads and writes each map once, forward and backward, and keeps nothing but its input
    (:func:`~ssm_core.ops.depthwise_conv`). The parameters and, but for rounding, the results stay as they are.

    Args:
        model: any network with mixers. It is changed in place.
        fused: True for the operator, False for PyTorch's convolution and SiLU. None takes the operator on a GPU and
            PyTorch's on a CPU; so do new networks.

    Returns:
        The model.
    """
    for module in model.modules():
        if isinstance(module, ScanMixer):
            module.fused_conv = fused
    return model
