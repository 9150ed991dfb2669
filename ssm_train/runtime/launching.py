"""How a run of several processes starts: the process group, the norms, and the wrapper for data parallelism."""

import os
from collections.abc import Mapping
from typing import Any, Literal

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ssm_core.errors import ConfigError

Launcher = Literal["none", "pytorch", "slurm"]


def join_processes(launcher: Launcher) -> None:
    """Join the process group by gloo where there is no GPU; with GPUs mmengine joins it by NCCL.

    Raises:
        ConfigError: the process was not started by the launcher, or the launcher needs GPUs.
    """
    if "RANK" not in os.environ and launcher == "pytorch":
        raise ConfigError("--launcher pytorch is for torchrun: start with `tools/dist_train.sh CONFIG PROCESSES`")
    if not torch.cuda.is_available() and not torch.distributed.is_initialized():
        if launcher != "pytorch":
            raise ConfigError(f"--launcher {launcher} needs GPUs; on CPUs use `tools/dist_train.sh CONFIG N`")
        torch.distributed.init_process_group("gloo")


def synchronise_norms(model: nn.Module, on_gpu: bool, convert: bool) -> nn.Module:
    """Batch norms of a model that several processes train: synchronised on GPUs, plain on CPUs.

    timm's function converts them, because mmengine's takes the activation off the norms that have one, such as those
    of MambaTree's classifier.

    Args:
        model: the model.
        on_gpu: whether it is trained on GPUs. torch's synchronised norms are for those alone.
        convert: whether plain norms become synchronised ones. Those that are synchronised already stay so on GPUs.
    """
    if not on_gpu:
        return revert_sync_batchnorm(model)
    return convert_sync_batchnorm(model) if convert else model


def wrapper_settings(settings: Mapping[str, Any], on_gpu: bool) -> dict[str, Any]:
    """Settings of a wrapper for data parallelism, with its type and the device of this process.

    Args:
        settings: of the config, or the defaults.
        on_gpu: whether the model is on this process's GPU. A model on the CPU must not name a GPU.
    """
    kind = settings.get("type", "MMDistributedDataParallel")
    wrapper = MODEL_WRAPPERS.get(kind) if isinstance(kind, str) else kind
    known = {**settings, "type": kind}
    if isinstance(wrapper, type) and issubclass(wrapper, DistributedDataParallel):
        known["device_ids"] = known.get("device_ids", [int(os.environ["LOCAL_RANK"])]) if on_gpu else None
    return known
