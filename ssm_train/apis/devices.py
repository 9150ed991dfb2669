"""The device that a command line names."""

import torch

from ssm_core.errors import ConfigError


def usable_device(name: torch.device | str | None = None) -> torch.device:
    """A device that this machine has.

    Args:
        name: such as ``"cuda:1"``; by default a GPU if there is one.

    Raises:
        ConfigError: there is no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        count = torch.cuda.device_count()
        have = f"cpu and cuda:0 to cuda:{count - 1}" if count else "cpu alone"
        raise ConfigError(f"--device {str(name)!r} is no device of this machine, which has {have}") from error
    if device.type == "meta":
        raise ConfigError("--device 'meta' computes nothing: name cpu or a GPU")
    return device
