"""Whether the schedule of the learning rate is as long as the training."""

from mmengine.config import Config


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
            return (
                f"the schedule of the learning rate is for {ends[last]} {unit}, and the training has {length}: "
                f"param_scheduler.{'' if alone else f'{last}.'}end={length} makes it as long"
            )
    return ""
