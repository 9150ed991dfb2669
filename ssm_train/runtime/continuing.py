"""What a run to resume has in common with the config and the processes that it is resumed with, and what it has not."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmengine.hooks import EMAHook
from mmengine.logging import MessageHub
from mmengine.optim import _ParamScheduler
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.nn import SyncBatchNorm

from ssm_core.errors import CheckpointError
from ssm_train.runtime import low_rank_gradients as low_rank
from ssm_train.runtime.checkpoints import plain
from ssm_train.runtime.grouping import KEY as GROUPING
from ssm_train.runtime.grouping import changed_settings
from ssm_train.runtime.layout import Layout, PieceSampler, pieces_of
from ssm_train.runtime.optimizers import GuardedOptimWrapper
from ssm_train.runtime.reproducibility import ResumableBatchSampler

_KEY = "layout"  # where the message hub of a run has its layout
# What changes in a scheduler while it runs, or means nothing for the values.
_PROGRESS = {"last_step", "_global_step", "_last_value", "verbose", "best", "num_bad_epochs", "cooldown_counter"}


def remember(runner: Runner) -> None:
    """Note the layout of a run in its state, unless it has one from before."""
    hub: MessageHub = runner.message_hub
    now = _layout_of(runner)
    if now is not None and Layout.read(hub.runtime_info.get(_KEY)) is None:
        hub.update_info(_KEY, now.plain())


def settle(runner: Runner, checkpoint: dict, keep_updates: bool, new_schedule: bool) -> None:
    """Compare a checkpoint to resume with the config, and refuse or prepare what is different.

    The training loop, the optimizer and the schedulers have been built, and the checkpoint is not loaded yet.

    Args:
        runner: the Runner. Its data loader and accumulation become those of the run if ``keep_updates`` is set.
        checkpoint: the content of the file. Its schedule and the settings of its optimizer become those of the config
            if ``new_schedule`` is set.
        keep_updates: whether the updates keep their samples where processes, batch size or accumulation differ.
        new_schedule: whether the schedule and the optimizer of the config are followed where they differ, from where
            the run is.

    Raises:
        CheckpointError: the run cannot go on as asked.
    """
    before = checkpoint.get("message_hub", {}).get("runtime_info", {})
    if low_rank.KEY in checkpoint and not any(isinstance(h, low_rank.LowRankGradientsHook) for h in runner.hooks):
        raise CheckpointError(
            "the run to resume had LowRankGradientsHook: add it to custom_hooks, or start a new run from its weights "
            "with load_from"
        )
    relaid = _settle_layout(runner, Layout.read(before.get(_KEY)), keep_updates)
    _check_end(runner, checkpoint["meta"], before)
    _check_averaging(runner, checkpoint)
    _settle_schedule(runner, checkpoint, relaid, new_schedule)


def _layout_of(runner: Runner) -> Layout | None:
    """The layout that the config and the processes ask for; None for a stream, which has no order to keep."""
    loader = runner.train_dataloader
    if not isinstance(loader.batch_sampler, ResumableBatchSampler):
        return None
    counts = runner.iterations_of_update
    return Layout(runner.world_size, loader.batch_sampler.batch_size, counts, len(loader.dataset))


def _settle_layout(runner: Runner, trained: Layout | None, keep_updates: bool) -> bool:
    """Compare the layouts. Return whether the loader was laid out anew."""
    now = _layout_of(runner)
    if now is None:
        return False
    if trained is None:
        runner.logger.warning(
            "the checkpoint does not say with how many processes and with what batch size it was trained: give the same"
        )
        return False
    if now.samples != trained.samples:
        sliced = "num_batch_per_epoch" in runner.cfg.train_dataloader
        raise CheckpointError(
            f"the run to resume had {trained.samples} training samples and this config gives {now.samples}: "
            + (
                "train_dataloader.num_batch_per_epoch cuts the data by the number of batches, so set it to match"
                if sliced
                else "resume with the same data, or start a new run from its weights with load_from"
            )
        )
    if now == trained:
        return False
    words = f"the run to resume was trained with {trained}, and this config asks for {now}"
    # Where only processes were lost or have joined, as in an elastic launch, nothing else has to be said.
    if now.update != trained.update and not (keep_updates and replace(trained, processes=now.processes) == now):
        raise CheckpointError(f"{words}: resume with the same, or with other sizes of the same product")
    if not keep_updates:
        raise CheckpointError(
            f"{words}: resume with the same, or add --keep-updates to keep the samples of each update"
        )
    if not isinstance(runner.optim_wrapper, GuardedOptimWrapper):
        raise CheckpointError(f"{words}, which needs an optim_wrapper of type ssm_train.GuardedOptimWrapper")
    _lay_out(runner, trained, now)
    return True


def _lay_out(runner: Runner, trained: Layout, now: Layout) -> None:
    pieces = pieces_of(trained, now.processes, runner.rank, now.batch_size)
    loader, loop = runner.train_dataloader, runner.train_loop
    loader.batch_sampler.batch_sampler = PieceSampler(loader.batch_sampler.batch_sampler, trained, pieces)
    runner.optim_wrapper._accumulative_counts = trained.accumulation
    if isinstance(loop, EpochBasedTrainLoop):
        loop._max_iters = loop.max_epochs * len(loader)
    sizes = loader.batch_sampler.batch_sampler.sizes(0)
    words = (
        f"the updates stay those of {trained}: each process now computes {len(pieces)} x {max(sizes)} samples in an "
        "iteration, and whatever counts iterations counts those of the run"
    )
    if pieces[0].count > 1:
        words += f"; mixup, random numbers of the network and batch norms see {max(sizes)} samples at a time"
    if len(pieces) > 1 and any(isinstance(module, SyncBatchNorm) for module in runner.bare_model.modules()):
        words += f"; synchronised batch norms see {now.processes} x {max(sizes)} samples at a time"
    runner.logger.warning(words)


def _check_end(runner: Runner, meta: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    unit, key = ("epoch", "max_epochs") if by_epoch else ("iter", "max_iters")
    end, done, end_before = getattr(runner.train_loop, key), meta.get(unit), before.get(key)
    units = "epochs" if by_epoch else "iterations"
    if isinstance(done, int) and done > end:
        raise CheckpointError(
            f"the run to resume has completed {done} {units}, and train_cfg.{key}={end} asks for fewer: give "
            f"train_cfg.{key} of at least {done}, or an earlier checkpoint"
        )
    if isinstance(end_before, int) and end_before != end:
        runner.logger.warning(f"the run to resume was to end after {end_before} {units}, and now goes on to {end}")


def _check_averaging(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Refuse to drop the averages of a run. Its weights would silently become the averages, which are what it saves."""
    if "ema_state_dict" in checkpoint and not any(isinstance(hook, EMAHook) for hook in runner.hooks):
        raise CheckpointError(
            "the run to resume averages its weights by an EMAHook and this config has none: resume with the same "
            "custom_hooks, or start a new run from its averages with load_from"
        )


def _settle_schedule(runner: Runner, checkpoint: dict, relaid: bool, new_schedule: bool) -> None:
    """Compare the schedules and the settings of the optimizers.

    mmengine would take those of the checkpoint without a word.
    """
    given, saved = runner.cfg.get("param_scheduler"), checkpoint.get("param_schedulers") or []
    if (isinstance(given, Mapping) and "type" not in given) or isinstance(saved, Mapping):
        return  # of several optimizers
    schedulers = _built_anew(runner, given) if given else []
    for scheduler, before in zip(schedulers, saved, strict=False):
        done = checkpoint["meta"]["epoch" if scheduler.by_epoch else "iter"]
        if done < min(scheduler.end, before["end"]):  # the end has had no effect yet
            before["end"] = scheduler.end
    # Another layout has another automatic scale of the learning rate. That of the run is kept.
    differences = _differences(schedulers, saved, _PROGRESS | {"base_values"} if relaid else _PROGRESS)
    groups = list(zip(runner.optim_wrapper.param_groups, _saved_groups(checkpoint["optimizer"]), strict=True))
    if not schedulers and not saved and not relaid:
        rates = ([group["lr"] for group in column] for column in zip(*groups, strict=True))
        differences += _rates(*reversed(list(rates)))
    names = {"lr"} | {scheduler.param_name for scheduler in schedulers}
    settings = changed_settings(*zip(*groups, strict=True), names)
    differences += settings.values()
    if regrouped := checkpoint.pop(GROUPING, ""):
        differences.append(regrouped)
    if not differences:
        return
    words = f"the run to resume differs from this config: {'; '.join(differences)}"
    if not new_schedule:
        raise CheckpointError(
            f"{words}; resume with the same, or add --new-schedule to follow the config's optimizer and schedule from "
            "here on"
        )
    _advance(runner, schedulers, checkpoint["meta"])
    checkpoint["param_schedulers"] = [scheduler.state_dict() for scheduler in schedulers]
    for now, before in groups:
        before.update({key: now[key] for name in names for key in (name, f"initial_{name}") if key in now})
        before.update({key: now[key] for key in settings if key in now})
    runner.logger.warning(f"{words}; the config is followed from here on")


def _built_anew(runner: Runner, given: Any) -> list[_ParamScheduler]:
    """The schedulers of the config at the beginning of a run, over epochs as long as those of the run."""
    for group in runner.optim_wrapper.param_groups:
        group.update(
            {key.removeprefix("initial_"): value for key, value in group.items() if key.startswith("initial_")}
        )
    return runner.build_param_scheduler(given)


def _differences(schedulers: list[_ParamScheduler], saved: list[dict], ignored: set[str]) -> list[str]:
    if len(schedulers) != len(saved):
        return [f"{len(saved)} schedules, now {len(schedulers)}"]
    found = []
    for scheduler, before in zip(schedulers, saved, strict=True):
        now, before = plain(scheduler.state_dict()), plain(before)
        for key in sorted((now.keys() | before.keys()) - ignored):
            old, new = before.get(key), now.get(key)
            if key == "base_values" and scheduler.param_name == "lr":
                found += _rates(old, new)
            elif old != new:
                found.append(f"{key} of {type(scheduler).__name__} was {_short(old)}, now {_short(new)}")
    return list(dict.fromkeys(found))  # schedulers after the first repeat the learning rates


def _rates(old: list[float], new: list[float]) -> list[str]:
    """What is different between the learning rates of the groups of parameters, in words."""
    if len(old) == len(new):
        pairs = [([then], [now]) for then, now in zip(old, new, strict=True) if then != now]
        old, new = max(pairs, default=([], []))
    if set(old) == set(new):
        return []
    then, now = (" and ".join(map(_short, sorted(set(rates)))) for rates in (old, new))
    return [f"optim_wrapper.optimizer.lr was {then}, now {now}"]


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _advance(runner: Runner, schedulers: list[_ParamScheduler], meta: Mapping[str, int]) -> None:
    """Bring schedulers to the place of a run, as the training loop and mmengine's hook would have done."""
    length = len(runner.train_dataloader) if isinstance(runner.train_loop, EpochBasedTrainLoop) else 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimizer made no step between
        for iteration in range(1, meta["iter"] + 1):
            for scheduler in schedulers:
                if not scheduler.by_epoch or (length and iteration % length == 0):
                    scheduler.step()


def _saved_groups(state: Mapping[str, Any]) -> list[dict]:
    base = state.get("base_param_settings")
    return [*state["param_groups"], *([base] if base is not None else [])]
