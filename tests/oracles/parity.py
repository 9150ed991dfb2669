"""Compares a converted model with the released model's oracle: outputs, gradients of all parameters and of images."""

from collections.abc import Callable
from typing import Any

import torch
from oracles.weights import cast, gradients, make_images, make_weights
from torch import Tensor, nn

from ssm_core.conversion import ReleasedFormat, convert, rename
from ssm_core.testing import relative_error

Outputs = Tensor | list[Tensor]
Forward = Callable[[dict[str, Tensor], Tensor], Outputs]
# The gradient of the predictor's last bias is a sum over four quadrants. The sum nearly cancels, because the gradients
# of a softmax add up to zero. So its error is measured relative to the gradient of the whole layer.
CANCELLING = "predictor.fc4.bias"
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def _as_list(outputs: Outputs) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else outputs


def run_oracle(forward: Forward, weights: dict[str, Tensor], images: Tensor) -> tuple[Outputs, dict[str, Tensor]]:
    """Return the oracle's outputs, and its gradients under the released names."""
    leaves = {n: v if n.endswith(BUFFERS) else v.clone().requires_grad_() for n, v in weights.items()}
    images = images.clone().requires_grad_()
    outputs = forward(leaves, images)
    return outputs, gradients(outputs, leaves, images)


def errors_against_oracle(
    shapes: dict[str, tuple[int, ...]],
    released: ReleasedFormat,
    build: Callable[..., nn.Module],
    forward: Forward,
    size: tuple[int, int],
    seed: int,
    dtype: torch.dtype,
    **overrides: Any,
) -> dict[str, float]:
    """Return the converted model's relative errors against the oracle in float64, for the outputs and all gradients."""
    weights, images = make_weights(shapes, seed), make_images(2, *size, seed)
    converted = convert(weights, released, build, **overrides)
    model = build(**converted.arguments).to(dtype).eval()
    model.load_state_dict(cast(converted.state_dict, dtype))
    expected, expected_gradients = run_oracle(forward, weights, images)
    pixels = expected_gradients.pop("images")
    own = {name: parameter.shape for name, parameter in model.named_parameters()}
    renaming = rename(expected_gradients, own, released.source_of)
    assert not renaming.missing
    assert not renaming.left_over

    images = images.to(dtype).requires_grad_()
    outputs = model(images)
    actual = gradients(outputs, dict(model.named_parameters()), images)
    pairs = zip(_as_list(outputs), _as_list(expected), strict=True)
    errors = {f"output {i}": relative_error(*pair) for i, pair in enumerate(pairs)}
    errors["images"] = relative_error(actual["images"], pixels)
    for name in own:
        layer = [name.replace("bias", "weight"), name] if name.endswith(CANCELLING) else [name]
        flat = [torch.cat([table[n].flatten() for n in layer]) for table in (actual, renaming.tensors)]
        errors[name] = relative_error(*flat)
    return errors
