"""A hook that ends a diverged run with the cause in one line and a checkpoint to continue from."""

from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from torch import Tensor

from ssm_core.errors import DivergedError, NonFiniteError
from ssm_core.weights import first_non_finite
from ssm_core.writing import WriteError
from ssm_train.data.collate import names_in
from ssm_train.registry import HOOKS
from ssm_train.runtime import checkpoints as ckpt
from ssm_train.runtime.gradient_norms import shard_of
from ssm_train.runtime.host_state import HostState
from ssm_train.runtime.run_state import agreed
from ssm_train.runtime.runner import Runner
from ssm_train.runtime.states import check_finite


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Handles a :class:`NonFiniteError` raised by the optimizer wrapper, a model or the writing of a checkpoint.

    The optimizer wrapper raises the error before it updates anything. The current state is therefore usually good, and
    the hook saves it. If a weight is not finite, the hook saves an earlier copy from memory instead. The training does
    not wait for a copy, and a copy is not used before it is known to be finite.

    Args:
        interval: iterations between two copies of the weights and the optimizer's state in the host's memory.
    """

    runs_late = True
    priority = "VERY_LOW"

    def __init__(self, interval: int = 500):
        self.interval = interval
        self._good: dict | None = None
        self._coming: HostState | None = None
        self._due = False
        self._batches: dict[int, Any] = {}  # by iteration: those of an update and one more, see before_train_iter

    def before_train(self, runner: Runner) -> None:
        """Keep the state that training starts from."""
        self._keep(runner, runner.iter)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Remember the batch, whose images an error names. Values may be read an iteration late."""
        first = runner.iter - runner.iterations_of_update
        self._batches = {number: batch for number, batch in self._batches.items() if number >= first}
        self._batches[runner.iter] = data_batch

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Keep a copy of the state every ``interval`` iterations, but not while gradients are half accumulated."""
        completed = runner.iter + 1
        self._due = self._due or completed % self.interval == 0
        if self._due and completed % runner.iterations_of_update == 0:
            self._due = False
            self._accept(runner)
            self._keep(runner, completed)
        elif self._coming is not None and self._coming.arrived and not runner.joint_states:
            self._accept(runner)  # which frees the copy before it

    def on_non_finite(self, runner: Runner, error: NonFiniteError) -> None:
        """Save the last good state and say what happened.

        Raises:
            DivergedError: always, with the cause and the place of the checkpoint.
        """
        number = min(runner.iter + 1, runner.max_iters)  # all have run when the last checkpoint is written
        place = f"training stopped at iteration {number} (epoch {runner.epoch + 1})"
        rate = max(runner.optim_wrapper.get_lr()["lr"])
        cause = _of_all_processes(runner, f"{error}; {self._blame(runner)}")
        saved = self._save(runner) if is_main_process() else "the main process saves the state"
        raise DivergedError(f"{place}, learning rate {rate:.3g}: {cause}; {saved}") from error

    def _keep(self, runner: Runner, completed: int) -> None:
        if runner.makes_states:
            self._coming = HostState(runner, completed)

    def _accept(self, runner: Runner) -> None:
        """Use the last copy from here on. Raise a :class:`NonFiniteError` if it is not finite."""
        coming, self._coming = self._coming, None
        if coming is None:
            return
        agreed(runner, lambda: check_finite(coming.read()))
        if is_main_process():
            self._good = coming.read()

    def _save(self, runner: Runner) -> str:
        if self._coming is not None and _is_finite(coming := self._coming.read()):
            self._good = coming
        state = self._good if runner.joint_states else self._current_or_good(runner)
        if state is None:
            return "there was no good state to save"
        runner.states.wait()
        newest = max(filter(None, (runner.last_saved, runner.states.newest)), default=None)
        if newest is not None and newest[0] >= state["meta"]["iter"]:
            return f"the last good state is in {newest[1]}"
        path = Path(runner.work_dir) / f"iter_{state['meta']['iter']}.pth"
        try:
            runner.states.save(state, path)
        except WriteError as error:
            return f"the last good state is not saved: {error}; {runner.states.describe()}"
        ckpt.point_to(path)
        return f"the last good state is in {path}"

    def _current_or_good(self, runner: Runner) -> dict | None:
        state = runner.checkpoint_state({"epoch": runner.epoch, "iter": runner.iter})
        return state if _is_finite(state) else self._good

    def _blame(self, runner: Runner) -> str:
        parameters = dict(runner.bare_model.named_parameters())
        shards = {name: shard_of(p) for name, p in parameters.items()}
        if (bad := first_non_finite(shards)) is not None:
            return f"the first bad parameter is {bad}"
        blamed = getattr(runner.optim_wrapper, "blamed", None)
        if blamed is None:
            bad = first_non_finite({name: shard_of(p.grad) for name, p in parameters.items() if p.grad is not None})
        else:
            bad = next((name for name, p in parameters.items() if any(p is other for other in blamed)), None)
        words = "all parameters are finite" + (f", the first bad gradient is that of {bad}" if bad else "")
        return f"{words}; {self._describe_batches(runner)}"

    def _describe_batches(self, runner: Runner) -> str:
        """What is known of the inputs whose gradients make the update."""
        last = max((number for number in self._batches if number <= runner.iter), default=0)
        first = last - last % runner.iterations_of_update
        batches = [batch for number, batch in self._batches.items() if first <= number <= last]
        owner = f"the {len(batches)} batches of the update have" if len(batches) > 1 else "the batch has"
        finite = [_finite_inputs(batch) for batch in batches]
        known = [flags for flags in finite if flags is not None]
        if not known or len(known) < len(batches):
            return f"{owner} no inputs that can be checked"
        count, bad = sum(map(len, known)), sum(flags.count(False) for flags in known)
        dataset = runner.train_dataloader.dataset
        names = [
            name
            for batch, flags in zip(batches, known, strict=True)
            for name in names_in(batch, [k for k, flag in enumerate(flags) if flag is not bool(bad)], dataset)
        ]
        words = f"{owner} {f'{bad} of {count} inputs not finite' if bad else f'{count} finite inputs'}"
        return f"{words}: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}" if names else words


def _finite_inputs(batch: Any) -> list[bool] | None:
    """Whether each of a batch's inputs is finite; None if they are no tensors."""
    inputs = batch.get("inputs") if isinstance(batch, dict) else None
    if not isinstance(inputs, Tensor | list) or not all(isinstance(image, Tensor) for image in inputs):
        return None
    return [bool(image.isfinite().all()) for image in inputs]


def _is_finite(state: dict) -> bool:
    try:
        check_finite(state)
    except NonFiniteError:
        return False
    return True


def _of_all_processes(runner: Runner, words: str) -> str:
    """What went wrong, by process: the gradients are not finite in all of them when the loss of one is not."""
    watch = runner.rescue and runner.rescue.watch
    if watch is None:
        return words
    found = watch.share("non-finite", f"in process {runner.rank}: {words}")
    return "; ".join([text for text in found if "inputs not finite" in text or "the loss is" in text] or found)
