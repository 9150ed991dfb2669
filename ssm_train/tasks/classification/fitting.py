"""What to do about images that do not fit a network, in place of the error from within the network."""

import torch
from torch import Tensor, nn

from ssm_core.errors import ConfigError


def logits_of(
    network: nn.Module,
    inputs: Tensor,  # [B, C, H, W]
    key: str,
) -> Tensor:  # [B, classes]
    """Run a network, and explain its error if the images have a size or a number of channels that it does not take.

    Most networks say what they take only by failing, and timm's notes of that do not know of ``img_size``.

    Args:
        network: the network.
        inputs: the images.
        key: the key of the network in the config.

    Raises:
        ConfigError: the images do not fit the network.
    """
    if torch.compiler.is_compiling():
        return network(inputs)
    try:
        return network(inputs)
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError) as error:
        words = _misfit(network, inputs, key)
        if not words:
            raise
        raise ConfigError(words) from error


def _misfit(network: nn.Module, inputs: Tensor, key: str) -> str:
    """Why images do not fit a network that has failed for them; empty if they do."""
    channels, height, width = inputs.shape[1:]
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is not None and first.in_channels != channels:
        return (
            f"the number of channels is {channels} in the images and {first.in_channels} in {key}: set "
            f"{key}.in_chans={channels}"
        )
    notes = getattr(network, "pretrained_cfg", None) or {}
    if not notes.get("fixed_input_size"):
        return ""
    own = getattr(getattr(network, "patch_embed", None), "img_size", None)  # with the option of that name
    if (height, width) == tuple(own or notes["input_size"][1:]):
        return ""
    size = f"{own[0]} × {own[1]}" if own else "one size"
    option = height if height == width else [height, width]
    return (
        f"{key} takes images of {size} alone and the images have {height} × {width}: set transform.size of all "
        f"datasets to the size of the network, or {key}.options.img_size={option}"
    )
