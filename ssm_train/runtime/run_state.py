"""What a run saves to continue later, and how it is read again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor

from ssm_core import weights
from ssm_train.data.normalization import test_data_of, value_range_of
from ssm_train.runtime import checkpoints as ckpt
from ssm_train.runtime import fit, resuming
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
        "state_dict": dict(runner.bare_model.state_dict()),
        "message_hub": ckpt.pack_message_hub(runner.message_hub.state_dict()),
    }
    if runner.folder is not None:
        state["meta"]["run"] = runner.folder.run
    if optimizer:
        state["optimizer"] = runner.optim_wrapper.state_dict()
        if (grouping := Grouping.of(runner.optim_wrapper, runner.bare_model)) is not None:
            state[GROUPING] = grouping.plain()
    if schedulers and runner.param_schedulers is not None:
        state["param_schedulers"] = ckpt.schedules(runner.param_schedulers)
    runner.call_hook("before_save_checkpoint", checkpoint=state)
    return ckpt.detached(state) if detached else ckpt.on_cpu(state)


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
