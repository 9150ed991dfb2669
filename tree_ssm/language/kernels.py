"""Selects the kernels for the parts of a mixer that plain Mamba has, from mamba-ssm and causal-conv1d if installed."""

import functools
import importlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from .configuration import ChainBackend


@functools.cache
def installed(module: str) -> bool:
    """Return whether a package with compiled kernels can be imported. A build for another torch version cannot."""
    try:
        importlib.import_module(module)
    except (ImportError, OSError):
        return False
    return True


def resolve_chain_backend(backend: ChainBackend, device: torch.device) -> ChainBackend:
    """Return the implementation of the chain. ``"auto"`` becomes ``"mamba_ssm"`` on a GPU if it is installed."""
    if backend == "auto" and device.type == "cuda" and installed("mamba_ssm.ops.selective_scan_interface"):
        return "mamba_ssm"
    return backend


def causal_convolution(
    x: Tensor,  # [B, L, D]
    conv: nn.Conv1d,
    activation: str,
) -> Tensor:  # [B, L, D]
    """Apply Mamba's causal depthwise convolution and its activation.

    The result at a token depends on this token and the tokens before it.

    Args:
        x: the input.
        conv: the convolution. Its padding is its width minus one.
        activation: the name of the activation in transformers.
    """
    x = x.transpose(1, 2)
    if x.is_cuda and activation in ("silu", "swish") and installed("causal_conv1d"):
        from causal_conv1d import causal_conv1d_fn

        weight = conv.weight.squeeze(1).to(x.dtype)
        bias = None if conv.bias is None else conv.bias.to(x.dtype)
        return causal_conv1d_fn(x, weight, bias, activation=activation).transpose(1, 2)
    # The scans read the channels of a token from adjacent memory. One copy here saves a copy in each scan.
    return ACT2FN[activation](conv(x)[..., : x.shape[-1]]).transpose(1, 2).contiguous()


def continued_convolution(
    window: Tensor,  # [B, D, K - 1 + L]
    conv: nn.Conv1d,
    activation: str,
) -> Tensor:  # [B, L, D]
    """Apply the convolution and its activation to L tokens. The input contains the K - 1 tokens before them."""
    out = F.conv1d(window, conv.weight, conv.bias, groups=conv.groups)
    return ACT2FN[activation](out).transpose(1, 2)
