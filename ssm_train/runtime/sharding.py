"""Models whose weights, gradients and optimizer states are sharded between the processes of a run, by torch's FSDP2."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from ssm_core.errors import ConfigError
from ssm_train.runtime.config_keys import Sharding
from ssm_train.runtime.optimizers import GuardedOptimWrapper


def check(runner: Runner) -> None:
    """Check that everything in a run works with sharded weights.

    Raises:
        ConfigError: something needs the whole weights in each process, or does not know of shards.
    """
    cfg, model = runner.cfg, runner.bare_model
    if not hasattr(model, "blocks"):
        raise ConfigError(
            f"sharding is for models that name their blocks, as LanguageModel does, not for {type(model).__name__}: "
            "leave it out"
        )
    for key in ("compile", "model_wrapper_cfg", "sync_bn"):
        if cfg.get(key):
            raise ConfigError(f"sharding and {key} cannot be used together: leave out one of them")
    if any(module._compiled_call_impl is not None for module in model.modules()):
        raise ConfigError("sharding is not for compiled layers: set model.backbone.compile_layers=False")
    for hook in runner.hooks:
        if isinstance(hook, EMAHook) or getattr(hook, "needs_whole_weights", False):
            raise ConfigError(f"{type(hook).__name__} needs the whole weights in one process: remove it, or sharding")
    wrapper = cfg.get("optim_wrapper") or {}
    if (kind := wrapper.get("type", "GuardedOptimWrapper")).rpartition(".")[2] != "GuardedOptimWrapper":
        raise ConfigError(f"sharding needs optim_wrapper.type=GuardedOptimWrapper, not {kind}")
    if wrapper.get("dtype") == "float16":
        raise ConfigError("sharding has no loss scale: set optim_wrapper.dtype to bfloat16 or float32")
    for key in ("train_dataloader", "val_dataloader"):
        sampler = (cfg.get(key) or {}).get("sampler") or {}
        if sampler.get("round_up") is False:
            raise ConfigError(f"with sharding all processes need as many batches: set {key}.sampler.round_up=True")


def shard(model: nn.Module, settings: Sharding) -> None:
    """Shard every block of a model, and then what is left of it, in place. The names of its tensors stay.

    Args:
        model: a model with a method ``blocks``. All processes have the same weights, on the CPU or on their device.
        settings: see :class:`.Sharding`.
    """
    device = get_device()
    mesh = init_device_mesh(device, (torch.distributed.get_world_size(),))
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if settings.get("param_dtype") == "bfloat16" else None,
        reduce_dtype=getattr(torch, settings.get("reduce_dtype", "float32")),
    )
    reshard = settings.get("reshard_after_forward", True)
    for block in model.blocks():
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard, mp_policy=policy)
    # The backward pass begins with what is left, such as the head.
    fully_shard(model, mesh=mesh, reshard_after_forward=False, mp_policy=policy)
    model.to(device)  # what is not sharded, such as the preprocessor of the data


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a model in the first process, on the CPU; nothing in the others. All of them have to call this."""
    from torch.distributed.checkpoint.state_dict import get_model_state_dict  # takes 0.2 s to import

    return get_model_state_dict(model, options=_options())


def whole_optimizer(model: nn.Module, wrapper: GuardedOptimWrapper) -> dict[str, Any]:
    """The state of an optimizer and its wrapper as without sharding, in the first process.

    In the others the state has no tensors. All processes have to call this.

    Args:
        model: the model.
        wrapper: the wrapper of its optimizer.
    """
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    optimizer, own = wrapper.optimizer, wrapper.state_dict()
    entries: dict[str, Any] = {}
    if own["state"]:  # torch would let an optimizer make a step that has made none
        entries = get_optimizer_state_dict(model, optimizer, options=_options()).get("state", {})
    numbers = _numbers(model, optimizer)
    return {**own, "state": {numbers[name]: entry for name, entry in entries.items()}}


def load_weights(model: nn.Module, state: Mapping[str, Tensor], strict: bool) -> None:
    """Load whole weights. All processes have to call this.

    Args:
        model: the model.
        state: the weights.
        strict: whether all of them have to be there.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(model, dict(state), options=StateDictOptions(full_state_dict=True, strict=strict))


def sharded_optimizer(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """The state of an optimizer with this process's shards of its tensors.

    torch's own function would let the optimizer make a step first, and would give a state to parameters that have none.

    Args:
        state: the whole state, with the numbers of the parameters.
        optimizer: the optimizer over the sharded parameters.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    entries = {
        number: {name: _like(parameters[number], value) for name, value in entry.items()}
        for number, entry in state["state"].items()
    }
    return {**state, "state": entries}


def _like(parameter: Tensor, value: Any) -> Any:
    """A whole tensor sharded as a parameter of the same shape. Each process takes its shard, and nothing is sent."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _options() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=True)


def _numbers(model: nn.Module, optimizer: Optimizer) -> dict[str, int]:
    """The number that the state of an optimizer has for each parameter, by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {names[id(parameter)]: number for number, parameter in enumerate(parameters)}
