"""Makes inputs of the norms, and computes their results with every gradient under a name."""

import torch
from oracles.gradients import with_gradients

from ssm_core.ops import (
    gated_layer_norm,
    gated_rms_norm,
    layer_norm,
    residual_layer_norm,
    residual_rms_norm,
    rms_norm,
)

GATED = ("gated_layer_norm", "gated_rms_norm")
RESIDUAL = ("residual_layer_norm", "residual_rms_norm")
NORMS = ("layer_norm", "rms_norm", *GATED, *RESIDUAL)


def inputs(shape, dtype=torch.float64):
    """Return x, the residual or the gate, scale, weight and bias."""
    x, residual = torch.randn(2, *shape, dtype=dtype)
    return [x, residual * 2 + 1, torch.rand(shape[0], dtype=dtype) * 2, *torch.randn(2, shape[-1], dtype=dtype)]


def norm_of(name, eps=1e-5, dtype=None, backend="auto"):
    """Return a norm as a function of what :func:`inputs` returns."""

    def function(x, residual, scale, weight, bias):
        if name == "layer_norm":
            return layer_norm(x, weight, bias, eps, dtype, backend)
        if name == "rms_norm":
            return rms_norm(x, weight, eps, dtype, backend)
        if name == "gated_layer_norm":
            return gated_layer_norm(x, residual, weight, bias, eps, dtype, backend)
        if name == "gated_rms_norm":
            return gated_rms_norm(x, residual, weight, eps, dtype, backend)
        if name == "residual_layer_norm":
            return tuple(residual_layer_norm(x, residual, weight, bias, eps, scale, dtype, backend))
        return tuple(residual_rms_norm(x, residual, weight, eps, scale, dtype, backend))

    return function


def norm_and_gradients(name, leaves, dtype=None, backend="auto", device="cpu", both=True):
    """Return the results and all gradients by name. Without ``both``, the stream has no gradient of its own."""
    torch.manual_seed(1)
    x, residual = leaves[:2]
    upstream = [torch.randn(x.shape, dtype=torch.float64).to(device, dtype or x.dtype)]
    if name in RESIDUAL:
        stream = torch.randn(x.shape, dtype=torch.float64).to(device, residual.dtype)
        upstream.append(stream if both else None)
    found = with_gradients(norm_of(name, dtype=dtype, backend=backend), [v.to(device) for v in leaves], upstream)
    results = ("y", "stream")[: len(upstream)]
    return dict(
        zip((*results, "grad_x", "grad_residual", "grad_scale", "grad_weight", "grad_bias"), found, strict=True)
    )
