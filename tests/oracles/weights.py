"""Draws weights and images for the oracles. NumPy's frozen ``RandomState`` makes them the same on every machine."""

import math

import numpy as np
import torch
from torch import Tensor


def _values(rng: np.random.RandomState, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw values that make every parameter matter. None is neutral, and none saturates a function."""
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.array(7, dtype=np.int64)
    if leaf == "running_var":
        return rng.uniform(0.5, 1.5, shape)
    if leaf == "dt_projs_bias":
        return rng.uniform(-3.0, 0.5, shape)
    noise = rng.standard_normal(shape)
    if leaf == "A_logs":
        return np.log(np.arange(1, shape[-1] + 1)) + 0.3 * noise
    if leaf == "Ds":
        return 1.0 + 0.3 * noise
    if leaf in ("gamma1", "gamma2"):
        return 0.5 + 0.2 * noise
    if len(shape) > 1:
        fan_in = shape[-1] if leaf in ("x_proj_weight", "dt_projs_weight") else math.prod(shape[1:])
        return noise / math.sqrt(fan_in)
    return (1.0 if leaf == "weight" else 0.0) + 0.2 * noise


def make_weights(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Return a float64 state dict of these shapes. ``RandomState(seed)`` draws it in alphabetical order of names."""
    rng = np.random.RandomState(seed)
    drawn = {name: torch.from_numpy(np.asarray(_values(rng, name, shapes[name]))) for name in sorted(shapes)}
    return {name: drawn[name] for name in shapes}


def make_images(batch: int, height: int, width: int, seed: int) -> Tensor:
    """Return float64 images [batch, 3, height, width] from ``RandomState(seed)``."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal((batch, 3, height, width)))


def cast(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the weights with the floating-point entries as new tensors of another dtype."""
    return {name: value.to(dtype, copy=True) if value.is_floating_point() else value for name, value in weights.items()}


def gradients(outputs: Tensor | list[Tensor], weights: dict[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """Return gradients of a fixed linear functional of the outputs, for ``"images"`` and all weights that need one."""
    flat = torch.cat([y.flatten() for y in ([outputs] if isinstance(outputs, Tensor) else outputs)])
    probe = torch.from_numpy(np.random.RandomState(99).standard_normal(flat.shape)).to(flat.dtype)
    leaves = {name: value for name, value in weights.items() if value.requires_grad} | {"images": images}
    return dict(zip(leaves, torch.autograd.grad((flat * probe).sum(), list(leaves.values())), strict=True))
