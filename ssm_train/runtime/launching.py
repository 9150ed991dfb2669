"""Starting a run of several processes: the process group, the norms, and the wrapper for data parallelism."""

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
    """Join the process group by gloo if there is no GPU. With GPUs, mmengine joins it later by NCCL.

    Args:
        launcher: the program that started this process.

    Raises:
        ConfigError: the process was not started by the launcher, or the launcher needs GPUs.
    """
    if "RANK" not in os.environ and launcher == "pytorch":
        raise ConfigError("--launcher pytorch is for torchrun: start with `tools/dist_train.sh CONFIG PROCESSES`")
    if not torch.cuda.is_available() and not torch.distributed.is_initialized():
        if launcher != "pytorch":
            raise ConfigError(f"--launcher {launcher} needs GPUs: on CPUs use `tools/dist_train.sh CONFIG PROCESSES`")
        torch.distributed.init_process_group("gloo")


def synchronise_norms(model: nn.Module, on_gpu: bool, convert: bool) -> nn.Module:
    """Prepare the batch norms of a model for several processes: synchronised on GPUs, plain on CPUs.

    timm's function converts them. mmengine's function would drop the activation of norms that have one
    (``timm.layers.BatchNormAct2d``).

    Args:
        model: the model.
        on_gpu: whether the model is trained on GPUs. torch's synchronised norms work only there.
        convert: whether plain norms become synchronised ones. Norms that are synchronised already stay so on GPUs.
    """
    if not on_gpu:
        return revert_sync_batchnorm(model)
    return convert_sync_batchnorm(model) if convert else model


def wrapper_settings(settings: Mapping[str, Any], on_gpu: bool) -> dict[str, Any]:
    """Complete the settings of a wrapper for data parallelism with its type and the device of this process.

    Args:
        settings: settings from the config, or the defaults.
        on_gpu: whether the model is on this process's GPU. A model on the CPU must not name a GPU.
    """
    kind = settings.get("type", "MMDistributedDataParallel")
    wrapper = MODEL_WRAPPERS.get(kind) if isinstance(kind, str) else kind
    known = {**settings, "type": kind}
    if isinstance(wrapper, type) and issubclass(wrapper, DistributedDataParallel):
        known["device_ids"] = known.get("device_ids", [int(os.environ["LOCAL_RANK"])]) if on_gpu else None
    return known
