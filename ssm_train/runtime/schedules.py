"""Whether schedule and checkpoints fit the length of the training, and the learning rate for the batch of an update."""

from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger

from ssm_core.errors import ConfigError


def check_units(cfg: Config) -> None:
    """Raise if a training of iterations saves or changes its rate by epochs.

    No epoch ends in such a training before its last iteration. It would save no checkpoint until then, and call that
    one ``epoch_1.pth``.

    Args:
        cfg: the config.

    Raises:
        ConfigError: it does; the message has the keys to change.
    """
    if "max_iters" not in (cfg.get("train_cfg") or {}):
        return
    keys = []
    checkpoint = (cfg.get("default_hooks") or {}).get("checkpoint", {})  # mmengine has one by default
    if checkpoint is not None and checkpoint.get("by_epoch", True):
        keys.append("default_hooks.checkpoint.by_epoch=False with default_hooks.checkpoint.interval in iterations")
    given = cfg.get("param_scheduler") or []
    alone = "type" in given  # as in schedule_warning
    for place, scheduler in enumerate([given] if alone else given if isinstance(given, list) else []):
        if scheduler.get("by_epoch", True) and not scheduler.get("convert_to_iter_based"):
            key = "param_scheduler" if alone else f"param_scheduler.{place}"
            keys.append(f"{key}.by_epoch=False with its begin and end in iterations")
    if not keys:
        return
    if (cfg.get("log_processor") or {}).get("by_epoch", True):
        keys.append("log_processor.by_epoch=False")
    raise ConfigError(f"train_cfg counts iterations, and other parts of the config count epochs: set {', '.join(keys)}")


def schedule_warning(cfg: Config) -> str:
    """What to tell a user who changed how long a training is, and not its schedule; an empty text if they agree.

    Args:
        cfg: the config. Only schedulers that have an ``end`` in the unit of the training are compared.
    """
    train, given = cfg.get("train_cfg") or {}, cfg.get("param_scheduler") or []
    alone = "type" in given  # a scheduler and not a list; of several optimizers each has a list, which is not compared
    schedulers = [given] if alone else given if isinstance(given, list) else []
    for key, unit in (("max_epochs", "epochs"), ("max_iters", "iterations")):
        length = train.get(key)
        ends = {
            place: scheduler["end"]
            for place, scheduler in enumerate(schedulers)
            if scheduler.get("by_epoch", True) == (unit == "epochs") and scheduler.get("end") is not None
        }
        if length is None or not ends:
            continue
        last = max(ends, key=lambda place: ends[place])
        if ends[last] != length:
            begin, key = schedulers[last].get("begin", 0), "param_scheduler" if alone else f"param_scheduler.{last}"
            what_to_do = f"{key}.end={length} makes it as long"
            if begin >= length:
                warm_ups = {f"param_scheduler.{place}.end": end for place, end in ends.items() if place != last}
                what_to_do = _with_shorter_warm_up(warm_ups, key, begin / ends[last], length)
            return (
                f"the schedule of the learning rate is for {ends[last]} {unit}, and the training has {length}: "
                f"{what_to_do}"
            )
    return ""


def _with_shorter_warm_up(warm_ups: dict[str, int], last: str, share: float, length: int) -> str:
    """What to do where the warm-up alone takes the whole training.

    Args:
        warm_ups: the ends of the schedulers before the last one, by their keys.
        last: key of the last one.
        share: place in the schedule at which the last one begins.
        length: of the training.
    """
    if length < 2:  # no scheduler can be shorter
        return "param_scheduler=[] trains at one rate, since the warm-up alone takes longer"
    warm_up = max(1, int(share * length))
    keys = [f"{key}={warm_up}" for key, end in warm_ups.items() if end > warm_up]
    keys += [f"{last}.begin={warm_up}", f"{last}.end={length}"]
    return f"{' '.join(keys)} make it as long, with a warm-up of {warm_up}"


def scale_to_update(optim_wrapper: Any) -> None:
    """Multiply the learning rates by the number of iterations whose gradients make one update.

    mmengine has scaled them to the samples of an iteration, and an update learns from so many times that.

    Args:
        optim_wrapper: the wrapper of the optimizer. Several in one have no common number, and stay as they are.
    """
    count = getattr(optim_wrapper, "_accumulative_counts", 1)
    if count == 1:
        return
    for group in optim_wrapper.optimizer.param_groups:
        group["lr"] *= count
    MMLogger.get_current_instance().info(f"an update takes {count} iterations: scaling the LR by {count} as well")
