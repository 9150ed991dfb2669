"""Whether the schedule of the learning rate is as long as the training."""

from mmengine.config import Config


def schedule_warning(cfg: Config) -> str:
    """What to tell a user who changed how long a training is, and not its schedule; an empty text if they agree.

    Args:
        cfg: the config. Only schedulers that have an ``end`` in the unit of the training are compared.
    """
    train, schedulers = cfg.get("train_cfg") or {}, cfg.get("param_scheduler") or []
    for key, unit in (("max_epochs", "epochs"), ("max_iters", "iterations")):
        length = train.get(key)
        ends = {
            place: scheduler["end"]
            for place, scheduler in enumerate(schedulers if isinstance(schedulers, list) else [])
            if scheduler.get("by_epoch", True) == (unit == "epochs") and scheduler.get("end") is not None
        }
        if length is None or not ends:
            continue
        last = max(ends, key=lambda place: ends[place])
        if ends[last] != length:
            return (
                f"the schedule of the learning rate is for {ends[last]} {unit}, and the training has {length}: "
                f"param_scheduler.{last}.end={length} makes it as long"
            )
    return ""
