"""Finding the state that a run goes on from, among files that may be damaged or of something else."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.logging import MMLogger
from mmengine.runner import Runner

from ssm_core import weights
from ssm_core.errors import CheckpointError
from ssm_train.runtime import resumed
from ssm_train.runtime.checkpoints import meta_of, outline, outline_of, pointed
from ssm_train.runtime.grouping import KEY as GROUPING
from ssm_train.runtime.grouping import Grouping, arrange
from ssm_train.runtime.occupants import STATE

# What Python raises where a state has other types, keys or numbers than it should.
DAMAGED = (LookupError, TypeError, ValueError, AttributeError, AssertionError, RuntimeError, ArithmeticError)


class Found(NamedTuple):
    """What was found in a work folder.

    Attributes:
        path: the newest good state; None if there is none.
        passed: why each of the others that are newer, or no states of this run, was passed over.
    """

    path: Path | None
    passed: dict[Path, str]


def anybodys(run: str | None, iteration: int) -> str:
    """Take a state of any run; see :func:`find_newest`."""
    return ""


def find_newest(
    folder: str | Path,
    check: Callable[[Path], Any],
    stranger: Callable[[str | None, int], str] = anybodys,
) -> Found:
    """Find the newest good state in a work folder.

    The newest is the one with most iterations. The names of files do not say that, since some count epochs, nor does
    their time, which copying changes. First all states are read without their tensors. Then the newest is read fully,
    and the one before it only if it is not good.

    Args:
        folder: the work folder.
        check: reads a state fully, and raises a :class:`CheckpointError` if the run cannot go on from it.
        stranger: says why the run does not go on from a state of the given run and iteration, or an empty text if it
            does. While nobody knows whose the folder is, states of the run that wrote last come before all others.
    """
    passed: dict[Path, str] = {}
    candidates: dict[Path, tuple[str | None, int]] = {}
    for path in sorted(path for path in Path(folder).glob("*.pth") if STATE.fullmatch(path.name)):
        try:
            _, iteration, run = outline(path)
        except CheckpointError as error:
            passed[path] = str(error)
            continue
        if reason := stranger(run, iteration):
            passed[path] = f"{path} {reason}"
        else:
            candidates[path] = (run, iteration)
    last = pointed(folder)
    writer = candidates[last][0] if last in candidates else None

    def newness(path: Path) -> tuple[bool, int, bool, str]:
        run, iteration = candidates[path]
        return last in candidates and run == writer, iteration, path == last, path.name

    for path in sorted(candidates, key=newness, reverse=True):
        try:
            check(path)
        except CheckpointError as error:
            passed[path] = str(error)
        else:
            return Found(path, passed)
    return Found(None, passed)


def newest_good(folder: str | Path, logger: MMLogger) -> Path | None:
    """The newest undamaged state of a work folder, of any model; None if there is none.

    Args:
        folder: the work folder.
        logger: receives a warning for every state that is passed over, with the reason.
    """
    found = find_newest(folder, lambda path: outline_of(weights.read_file(path), path))
    for reason in found.passed.values():
        logger.warning(f"{reason}; it is passed over")
    return found.path


def newest_state(
    folder: str | Path, check: Callable[[Path], Any], stranger: Callable[[str | None, int], str], logger: MMLogger
) -> Path | None:
    """The state that a run goes on from, see :func:`find_newest`. None if there is no state at all.

    Args:
        folder: the work folder.
        check: see :func:`find_newest`.
        stranger: see :func:`find_newest`.
        logger: receives a warning for every state that is passed over, with the reason.

    Raises:
        CheckpointError: there are states, and the run can go on from none of them.
    """
    found = find_newest(folder, check, stranger)
    reasons = list(found.passed.values())
    if found.path is None and reasons:
        more = f" (so are {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        raise CheckpointError(
            f"no state in {folder} can be resumed: {reasons[0]}{more}; begin anew with --overwrite, or beside it with "
            "--fresh"
        )
    for reason in reasons:
        logger.warning(f"{reason}; it is passed over")
    return found.path


def timed_states(folder: str | Path, stranger: Callable[[str | None, int], str]) -> dict[int, Path]:
    """The files ``state_N.pth`` of a run in a folder, by iteration. Files of others and damaged ones are left out.

    Args:
        folder: the work folder.
        stranger: see :func:`find_newest`.
    """
    states = {}
    for path in Path(folder).glob("state_*.pth"):
        if STATE.fullmatch(path.name):
            with suppress(CheckpointError):
                _, iteration, run = outline(path)
                if not stranger(run, iteration):
                    states[iteration] = path
    return states


def check_state(content: dict[str, Any], path: str | Path, run: Runner) -> None:
    """Check that a run can go on from what a state has besides the weights.

    Its message hub is unpacked, and the state of its optimizer is arranged for the groups of the run (:func:`arrange`).

    Args:
        content: the content of the file, with ``"state_dict"`` and ``"meta"``.
        path: the file, for the message.
        run: the run that goes on. Its optimizer and schedules are built.

    Raises:
        CheckpointError: a part is missing or has another form than the run's own.
    """
    outline_of(content, path)
    optimizer = getattr(run.optim_wrapper, "optimizer", None)
    own, grouping = run.optim_wrapper.state_dict(), Grouping.of(run.optim_wrapper, run.bare_model)
    try:
        if grouping is not None:
            arrange(content, path, own, grouping)
        resumed.check_optimizer(content["optimizer"], own, optimizer)
        if isinstance(run.param_schedulers, list) and "param_schedulers" in content:
            _check_schedules(content["param_schedulers"], run.param_schedulers, bool(content.get(GROUPING)))
        _check_averages(content)
        seed = meta_of(content).get("seed")
        if seed is not None and type(seed) is not int:
            raise TypeError(f"its seed is a {type(seed).__name__}")
        content["message_hub"] = resumed.message_hub(content["message_hub"], Path(run.work_dir))
    except DAMAGED as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"{path} cannot be resumed, the state of its run is damaged: {reason}") from error


def _check_averages(content: Mapping[str, Any]) -> None:
    state = content["state_dict"]
    for name, value in (content.get("ema_state_dict") or {}).items():
        if name.startswith("module.") and value.shape != state[name.removeprefix("module.")].shape:
            raise ValueError(f"the average of {name} has another shape")


def _check_schedules(states: Any, schedules: list[Any], regrouped: bool) -> None:
    """Check the states of the same kind as the run's schedules. What else may differ is :func:`.settle`'s to say.

    Args:
        states: from a file.
        schedules: the run's.
        regrouped: whether the groups of parameters are others, so that lists with a value of each group are as well.
    """
    of_groups = ("base_values", "_last_value") if regrouped else ()
    for state, schedule in zip(states, schedules, strict=False):
        if not isinstance(state["end"], int | float):
            raise TypeError("a schedule has no end")
        own = schedule.state_dict()
        if state.keys() == own.keys():
            resumed.check_alike({k: v for k, v in own.items() if k not in of_groups}, state, "param_schedulers")
