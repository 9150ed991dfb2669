"""The MLP of a block, which is one operator where that saves time."""

import torch
import torch.fx
from timm.layers import Mlp
from torch import Tensor, nn

from ssm_core.ops.mlp import has_mlp_kernel, mlp

from .gelu import GELU
from .norm import autocast_dtype, is_hooked


class OneOperator(nn.Module):
    """A module whose layers one operator can compute.

    Attributes:
        fused: whether the operator computes them where there is a kernel.
    """

    fused: bool = True


class FusedMlp(Mlp, OneOperator):
    """Linear → GELU → Linear, with timm's parameters.

    Args:
        dim: number C of channels.
        hidden: number of hidden channels.

    One operator computes it where there is a kernel (:func:`~ssm_core.ops.mlp`).
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(dim, hidden, act_layer=GELU)

    def forward(
        self,
        x: Tensor,  # [..., C]
    ) -> Tensor:  # [..., C]
        """Compute the MLP for every token."""
        fc1, fc2 = self.fc1, self.fc2
        # Those who take features by name from graphs of torch.fx expect the layers in them under their names.
        fused = self.fused and not isinstance(x, torch.fx.Proxy)
        if fused and isinstance(fc1, nn.Linear) and isinstance(fc2, nn.Linear) and _is_plain(self):
            return _run(x, fc1, self.act, fc2)
        result: Tensor = super().forward(x)
        return result


def _is_plain(module: Mlp) -> bool:
    """Whether the layers are those that the operator computes, and not what users put in their places."""
    parts = (module.fc1, module.act, module.fc2)
    kinds = all(type(part) is kind for part, kind in zip(parts, (nn.Linear, GELU, nn.Linear), strict=True))
    dropped = module.training and (module.drop1.p > 0 or module.drop2.p > 0)
    changed = dropped or not isinstance(module.norm, nn.Identity) or any(is_hooked(part) for part in parts)
    return kinds and not changed and module.fc1.bias is not None and module.fc2.bias is not None


def _run(
    x: Tensor,  # [..., C]
    fc1: nn.Linear,
    act: nn.Module,
    fc2: nn.Linear,
) -> Tensor:  # [..., C]
    dtype = autocast_dtype(x, before_product=True)
    narrow = x.to(dtype)
    if has_mlp_kernel(narrow, fc1.weight, torch.is_grad_enabled()):
        return mlp(narrow, fc1.weight.to(dtype), fc1.bias, fc2.weight.to(dtype), fc2.bias)
    result: Tensor = fc2(act(fc1(x)))
    return result


def fuse_mlps(model: nn.Module, fused: bool = True) -> nn.Module:
    """Choose whether MLPs, score predictors and the stem are computed by one operator each where there is a kernel.

    The operator keeps the hidden channels in registers (:func:`~ssm_core.ops.mlp`). Score predictors and stems have
    operators of their own. The parameters and, but for rounding, the results stay as they are.

    Args:
        model: any network with blocks. It is changed in place.
        fused: False for PyTorch's layers.

    Returns:
        The model.
    """
    for module in model.modules():
        if isinstance(module, OneOperator):
            module.fused = fused
    return model
