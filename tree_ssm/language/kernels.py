"""Which kernels compute the plain parts of a mixer: those of mamba-ssm and causal-conv1d where they are installed."""

import functools
import importlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from .configuration import ChainBackend


@functools.cache
def installed(module: str) -> bool:
    """Whether a package with compiled kernels can be imported; one built for another torch cannot."""
    try:
        importlib.import_module(module)
    except (ImportError, OSError):
        return False
    return True


def resolve_chain_backend(backend: ChainBackend, device: torch.device) -> ChainBackend:
    """The implementation of the chain: ``"auto"`` is mamba-ssm's on a GPU where it is installed."""
    if backend == "auto" and device.type == "cuda" and installed("mamba_ssm.ops.selective_scan_interface"):
        return "mamba_ssm"
    return backend


def causal_convolution(
    x: Tensor,  # [B, L, D]
    conv: nn.Conv1d,
    activation: str,
) -> Tensor:  # [B, L, D]
    """Mamba's depthwise convolution over the tokens before each one, and its activation.

    Args:
        x: input.
        conv: the layer, padded by its width less one.
        activation: transformers' name of it.
    """
    x = x.transpose(1, 2)
    if x.is_cuda and activation in ("silu", "swish") and installed("causal_conv1d"):
        from causal_conv1d import causal_conv1d_fn

        weight = conv.weight.squeeze(1).to(x.dtype)
        bias = None if conv.bias is None else conv.bias.to(x.dtype)
        return causal_conv1d_fn(x, weight, bias, activation=activation).transpose(1, 2)
    # The scans read the channels of a token side by side: one copy here instead of one in each of them.
    return ACT2FN[activation](conv(x)[..., : x.shape[-1]]).transpose(1, 2).contiguous()


def continued_convolution(
    window: Tensor,  # [B, D, K - 1 + L]
    conv: nn.Conv1d,
    activation: str,
) -> Tensor:  # [B, L, D]
    """The same for tokens whose K - 1 predecessors are given with them."""
    out = F.conv1d(window, conv.weight, conv.bias, groups=conv.groups)
    return ACT2FN[activation](out).transpose(1, 2)
