"""Starting a run of several processes: the process group, the norms, and the wrapper for data parallelism."""

import os
import re
import subprocess
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import init_dist
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS
from mmengine.utils.dl_utils import set_multi_processing
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ssm_core.errors import ConfigError
from ssm_train.runtime.building import building_from_config
from ssm_train.runtime.launcher_variables import ADVICE, Launcher, check_variables, number


def join_processes(launcher: Launcher, env_cfg: Mapping[str, Any]) -> None:
    """Join the process group, by gloo if there is no GPU, and otherwise as mmengine does. Joining again does nothing.

    Args:
        launcher: the program that started this process.
        env_cfg: the config's settings of the environment.

    Raises:
        ConfigError: the process was not started by the launcher, or a variable of the launcher is missing or wrong.
    """
    if launcher == "slurm":
        read_slurm()
    if "RANK" not in os.environ and launcher == "pytorch":
        raise ConfigError("--launcher pytorch is for torchrun: start with `tree-ssm dist-train CONFIG PROCESSES`")
    if torch.distributed.is_initialized():
        return
    if launcher != "none":
        check_variables(launcher)
    if torch.cuda.is_available():
        # mmengine's order: the group would otherwise choose another way to start processes.
        set_multi_processing(**env_cfg.get("mp_cfg", {}), distributed=True)
        init_dist(launcher, **env_cfg.get("dist_cfg", {}))
    else:
        torch.distributed.init_process_group("gloo")


def read_slurm() -> None:
    """Set the variables by which torch joins a process group, from those that Slurm sets for a task.

    The first node of the step has the meeting point, at the address by which Slurm itself reaches that node. The port
    follows from the number of the job. ``MASTER_ADDR`` and ``MASTER_PORT`` are kept where they are set.

    Raises:
        ConfigError: the process is no task of Slurm, or a variable of Slurm is no number.
    """
    known = os.environ
    if "SLURM_PROCID" not in known and "SLURM_NTASKS" not in known:
        raise ConfigError("--launcher slurm is for tasks of Slurm: start with `tree-ssm slurm-train PARTITION CONFIG`")
    advice = ADVICE["slurm"]
    rank, size = number("SLURM_PROCID", advice), number("SLURM_NTASKS", advice, least=1)
    local = number("SLURM_LOCALID", advice) if "SLURM_LOCALID" in known else 0
    job = number("SLURM_JOB_ID", advice) if "SLURM_JOB_ID" in known else 0
    known.setdefault("RANK", str(rank))
    known.setdefault("WORLD_SIZE", str(size))
    known.setdefault("LOCAL_RANK", str(local))
    known.setdefault("MASTER_PORT", str(20000 + job % 10000))
    if "MASTER_ADDR" not in known:
        nodes = known.get("SLURM_STEP_NODELIST") or known.get("SLURM_NODELIST", "")
        if not nodes:
            raise ConfigError(f"the environment variable SLURM_NODELIST is not set: {advice}")
        known["MASTER_ADDR"] = _address_of_first(nodes)


def _address_of_first(nodes: str) -> str:
    """The address of the first node in a list such as ``n[1-2]``; its name if Slurm does not say more."""
    try:
        names = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, timeout=30)
        first = names.stdout.split()[0]
        shown = subprocess.run(
            ["scontrol", "--oneliner", "show", "node", first], capture_output=True, text=True, timeout=30
        )
    except (OSError, IndexError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"Slurm does not say where the nodes {nodes!r} are ({error}): set MASTER_ADDR") from error
    address = re.search(r"\bNodeAddr=(\S+)", shown.stdout)
    return address[1] if address else first


def has_synchronised_norms(model: nn.Module) -> bool:
    """Whether a model has batch norms over all processes, those of torch or of mmcv."""
    return any(isinstance(m, nn.SyncBatchNorm) or type(m).__name__ == "SyncBatchNorm" for m in model.modules())


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


def wrap_for_processes(model: nn.Module, settings: Mapping[str, Any], synchronised: bool) -> nn.Module:
    """Move a model to the device of this process and wrap it for data parallelism.

    Args:
        model: the model.
        settings: of the wrapper, see :func:`wrapper_settings`.
        synchronised: whether plain batch norms become synchronised ones, on GPUs.

    Raises:
        ConfigError: the settings are wrong.
    """
    on_gpu = torch.cuda.is_available()
    model = synchronise_norms(model.to(get_device()), on_gpu, convert=synchronised)
    with building_from_config():
        return MODEL_WRAPPERS.build(wrapper_settings(settings, on_gpu), default_args={"module": model})
