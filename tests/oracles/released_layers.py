"""Layers that the oracles of both released models apply directly from a state dict. Channels come last."""

import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def conv(w: Weights, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = w[f"{name}.weight"]
    groups = x.shape[-1] // weight.shape[1]
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, w.get(f"{name}.bias"), stride=stride, padding=1, groups=groups)
    return y.permute(0, 2, 3, 1)


def count(w: Weights, prefix: str) -> int:
    """Count the numbered modules whose names begin with ``prefix``."""
    return 1 + max(int(name[len(prefix) :].split(".")[0]) for name in w if name.startswith(prefix))
