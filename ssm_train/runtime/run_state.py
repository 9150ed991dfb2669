"""What a run saves to continue later, and how it is read again."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import broadcast_object_list
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_state_dict
from torch import Tensor

from ssm_core import weights
from ssm_core.errors import NonFiniteError
from ssm_core.writing import WriteError
from ssm_train.data.normalization import test_data_of, value_range_of
from ssm_train.runtime import checkpoints as ckpt
from ssm_train.runtime import fit, resuming, sharding
from ssm_train.runtime.grouping import KEY as GROUPING
from ssm_train.runtime.grouping import Grouping


def state_of(runner: Runner, meta: dict, optimizer: bool, schedulers: bool, detached: bool) -> dict:
    """All that a run needs to continue, see :meth:`.Runner.checkpoint_state`."""
    state: dict[str, Any] = {
        "meta": {
            **meta,
            "seed": runner.seed,
            "experiment_name": runner.experiment_name,
            "config_file": Path(runner.cfg.filename or "").name,
            "model": ckpt.plain(runner.cfg.get("model", {})),
            "dataset_meta": ckpt.plain(getattr(runner.train_dataloader.dataset, "metainfo", None)),
            **_test_images(runner.cfg),
        },
        "state_dict": _weights_of(runner),
        "message_hub": ckpt.pack_message_hub(runner.message_hub.state_dict()),
    }
    if runner.folder is not None:
        state["meta"]["run"] = runner.folder.run
    if optimizer:
        wrapper = runner.optim_wrapper
        whole = sharding.whole_optimizer(runner.bare_model, wrapper) if runner.sharded else wrapper.state_dict()
        state["optimizer"] = whole
        if (grouping := Grouping.of(runner.optim_wrapper, runner.bare_model)) is not None:
            state[GROUPING] = grouping.plain()
    if schedulers and runner.param_schedulers is not None:
        state["param_schedulers"] = ckpt.schedules(runner.param_schedulers)
    runner.call_hook("before_save_checkpoint", checkpoint=state)
    return ckpt.detached(state) if detached else ckpt.on_cpu(state)


def _weights_of(runner: Runner) -> dict[str, Tensor]:
    return sharding.whole_weights(runner.bare_model) if runner.sharded else dict(runner.bare_model.state_dict())


def load_weights(runner: Runner, state: Mapping[str, Tensor], exact: bool) -> None:
    """Load weights into the model of a run.

    Args:
        runner: the Runner.
        state: the weights.
        exact: whether they are all that the model has.
    """
    if runner.sharded:
        sharding.load_weights(runner.bare_model, state, exact)
    elif exact:
        load_state_dict(runner.bare_model, state, strict=True, logger=runner.logger)
    else:
        runner.bare_model.load_state_dict(state, strict=False)


def agreed(runner: Runner, write: Callable[[], object]) -> None:
    """Write something in the first process, and let all processes that take part know how it ended.

    Args:
        runner: the Runner. With its ``joint_states`` all processes have to call this.
        write: called in the first process.

    Raises:
        NonFiniteError: ``write`` raised it, in this or in the first process.
        WriteError: likewise.
    """
    outcome: list[NonFiniteError | WriteError | None] = [None]
    if runner.rank == 0:
        try:
            write()
        except (NonFiniteError, WriteError) as error:
            outcome = [error]
    if runner.joint_states:
        broadcast_object_list(outcome)
    if outcome[0] is not None:
        raise outcome[0]


def read_checked(
    runner: Runner, filename: str | Path, map_location: torch.device | str = "cpu", exact: bool = True
) -> dict[str, Any]:
    """Read a checkpoint and check it, see :meth:`.Runner.load_checkpoint`. Nothing of the run changes."""
    checkpoint = weights.read_file(filename, map_location)
    state, _ = weights.state_dict_of(checkpoint, filename)
    if "state_dict" not in checkpoint:
        checkpoint = {"state_dict": state}
    checkpoint["meta"] = ckpt.meta_of(checkpoint)
    # Older versions of mmengine wrote the config here. Nothing needs it, and mmengine would run its text as Python.
    checkpoint["meta"].pop("config", None)
    checkpoint["state_dict"] = weights.add_backbone_prefix(state, runner.bare_model.state_dict())
    if exact:
        fit.check_fit(runner.bare_model, runner.cfg, filename, checkpoint)
    else:
        fit.check_start(runner.bare_model, runner.cfg, filename, checkpoint, runner.logger)
    for part in (checkpoint["state_dict"], checkpoint.get("ema_state_dict")):
        tensors = part.items() if isinstance(part, Mapping) else ()
        weights.check_finite({k: v for k, v in tensors if isinstance(v, Tensor)}, filename)
    if runner._resume:
        resuming.check_state(checkpoint, filename, runner)
    return checkpoint


def _test_images(cfg: Config) -> dict[str, Any]:
    """How the config prepares the test images, which the weights depend on; None where the dataset does not say."""
    dataset = test_data_of(cfg)
    return {
        "test_transform": ckpt.plain(dataset.get("transform")),
        "value_range": ckpt.plain(value_range_of(dataset)),
    }
