"""mmengine's Runner, made reproducible, resumable at any iteration, and able to train on CPUs in several processes."""

from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from mmengine.dist import broadcast_object_list
from mmengine.runner.base_loop import BaseLoop
from torch import nn

from ssm_core import weights
from ssm_core.errors import CheckpointError, ConfigError, DivergedError, NonFiniteError, StoppedError, UserError
from ssm_train.data.workers import StoppableLoader
from ssm_train.runtime import checkpoints as ckpt
from ssm_train.runtime import resumed, resuming, sharding
from ssm_train.runtime.building_runner import BuildingRunner
from ssm_train.runtime.continuing import settle
from ssm_train.runtime.custom_keys import FrozenHook
from ssm_train.runtime.iteration_times import IterationTimesHook
from ssm_train.runtime.late_reports import LateReports
from ssm_train.runtime.logs import threads_may_fail_to_write
from ssm_train.runtime.reproducibility import reseed
from ssm_train.runtime.rescue import RescueHook
from ssm_train.runtime.run_state import agreed, load_weights, read_checked, state_of
from ssm_train.runtime.states import StateFiles, check_finite
from ssm_train.runtime.stop_hook import StopHook
from ssm_train.runtime.stopping import StopSignals, StopTraining
from ssm_train.runtime.work_folder import WorkFolder


class Runner(BuildingRunner):
    """Runs a training or a test from a config. The keys of the config are mmengine's.

    It differs from mmengine's Runner as follows. Every random number is a function of the seed and the place in the run
    (:mod:`.reproducibility`). Checkpoints are written atomically and hold plain data (:mod:`.checkpoints`). A NaN stops
    training before it reaches the parameters. The console shows progress only, and the log file shows everything.
    Processes without GPUs communicate by gloo.
    """

    # The last checkpoint that can be resumed: number of completed iterations, and file.
    last_saved: tuple[int, Path] | None = None
    # The checkpoint that was resumed: number of completed iterations, and file.
    resumed_from: tuple[int, Path] | None = None
    # Watches the other processes while training, and saves the state if the run cannot go on.
    rescue: RescueHook | None = None
    # Weights to start from if there is no checkpoint to resume.
    start_from: str | None = None
    # Whether it is expected that there is nothing to resume.
    may_begin = False
    # What of a run to resume may differ from the config; see :func:`.continuing.settle`.
    keep_updates = False
    new_schedule = False
    # Number of iterations after which a table says where their time goes; 0 for no table.
    time_iterations = 0
    # Whose the work folder is. It is set for a training by ssm_train.apis.train, and states are named after it.
    folder: WorkFolder | None = None
    # Whether the run goes on from a file outside its folder, where a later --resume would not find it.
    starts_elsewhere: bool = False
    # What the checkpoint that was read last says about itself; None for weights alone.
    loaded: ckpt.Outline | None = None
    # The file of the weights that the model has, and its meta.
    loaded_from: str = ""
    loaded_meta: Mapping[str, Any] = MappingProxyType({})

    # mmengine's own make the training loop, with its data, where there is none yet. A test needs no training data.
    @property
    def epoch(self) -> int:
        """Number of completed epochs; 0 in a test."""
        return self._train_loop.epoch if isinstance(self._train_loop, BaseLoop) else 0

    @property
    def iter(self) -> int:
        """Number of completed iterations; 0 in a test."""
        return self._train_loop.iter if isinstance(self._train_loop, BaseLoop) else 0

    def train(self) -> nn.Module:
        """Train.

        Raises:
            DivergedError: a loss, a gradient or a weight is not finite. The hooks' ``on_non_finite`` has then saved the
                last good state.
            StoppedError: a signal stopped the training, or another process died. The state is saved.
            UserError: a data loader's worker died, or another process failed. The state is saved.
            WriteError: something could not be written at the end, or no state for a long time.
        """
        self.rescue = RescueHook(float(self.cfg.get("process_timeout", 60.0)))
        stop_hook = StopHook(StopSignals())
        self.register_hook(self.rescue)
        if self.frozen:
            self.register_hook(FrozenHook(self.frozen))
        if self.time_iterations:
            self.register_hook(IterationTimesHook(self.time_iterations))
        self.register_hook(stop_hook)
        try:
            with threads_may_fail_to_write(), self.reports.settled_on_error():
                model = super().train()
            self.states.check_end()
            return model
        except NonFiniteError as error:
            self.rescue.announce(str(error))
            self.call_hook("on_non_finite", error=error)
            raise DivergedError(f"training stopped at iteration {self.iter + 1}: {error}") from error
        except StopTraining as stop:
            raise StoppedError(stop_hook.finish(self, stop)) from None
        except Exception as error:
            explained = self.rescue.explain(self, error)
            if explained is None:
                raise
            raise explained from error
        finally:
            self.rescue.stop()
            stop_hook.signals.finish()
            self.states.wait()

    @cached_property
    def reports(self) -> LateReports:
        """What the iterations report, and when the hooks after them run."""
        return LateReports(self)

    @cached_property
    def states(self) -> StateFiles:
        """The rotating files with the state of the run."""
        return StateFiles(Path(self.work_dir), self.logger)

    @property
    def last_iteration_saved(self) -> int:
        """Number of completed iterations in the newest state that can be resumed; -1 if there is none."""
        return max((saved[0] for saved in (self.last_saved, self.states.newest) if saved), default=-1)

    def stop_workers(self) -> None:
        """End the worker processes of data loaders. Call this after the run, also if it failed."""
        for loop in (self._train_loop, self._val_loop, self._test_loop):
            loader = getattr(loop, "dataloader", None)  # a loop that was never built has none
            if isinstance(loader, StoppableLoader):
                loader.stop_workers()

    def load_or_resume(self) -> None:
        """Load the checkpoint of the config; ``resume`` without a file takes the newest good state of the work folder.

        Raises:
            CheckpointError: there are states, and the run can go on from none of them.
        """
        if self._has_loaded:
            return
        named = self._load_from is not None
        if self._resume and not named:
            found: list[Path | CheckpointError | None] = [self._newest_state() if self.rank == 0 else None]
            broadcast_object_list(found)
            if isinstance(found[0], CheckpointError):
                raise found[0]
            self._load_from = self.start_from if found[0] is None else str(found[0])
            if found[0] is None:
                if not self.may_begin:
                    self.logger.warning(f"no checkpoint to resume from in {self.work_dir}: starting from the beginning")
                self._resume = False
        super().load_or_resume()
        if self.folder is None:
            return
        if not self._resume:
            self.folder.begin()
            return
        self.folder.continues(self.loaded, named)
        self.starts_elsewhere = named and not self.folder.holds(self._load_from)
        if self.rank == 0:
            self.states.known = resuming.timed_states(self.work_dir, self.folder.stranger)
            # A run may have been killed between its last checkpoint and the pointer, and may have nothing left to do.
            if not named and ckpt.pointed(self.work_dir) != Path(self._load_from):
                ckpt.point_to(self._load_from)

    def _newest_state(self) -> Path | CheckpointError | None:
        stranger = resuming.anybodys if self.folder is None else self.folder.stranger
        try:
            return resuming.newest_state(self.work_dir, partial(read_checked, self), stranger, self.logger)
        except CheckpointError as error:
            return error

    def resume(self, filename: str, *args: Any, **options: Any) -> None:
        """Continue the run that saved a checkpoint, with the seed of that run.

        Raises:
            CheckpointError: the file is missing, damaged or of another model, or its state of the run is incomplete.
        """
        if self.sharded:  # a device need not have room for the whole state
            options.setdefault("map_location", "cpu")
        try:
            super().resume(filename, *args, **options)
            self.states.resumed(self.iter, Path(filename))
        except UserError:
            raise
        except resuming.DAMAGED as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise CheckpointError(f"{filename} cannot be resumed, the state of its run is damaged: {reason}") from error
        self.resumed_from = (self.iter, Path(filename))
        reseed(self.train_dataloader, self.seed)

    def load_checkpoint(
        self,
        filename: str,
        map_location: torch.device | str = "cpu",
        strict: bool = False,
        revise_keys: list[tuple[str, str]] | None = None,
    ) -> dict:
        """Load weights from a checkpoint of a run, or from a bare state dict of the model or of its backbone.

        A checkpoint to resume or to test must fit exactly. Weights to start a training from may differ in part, for
        example in the last layer. An address is downloaded first (:mod:`ssm_core.addresses`).

        Args:
            filename: the file or address.
            map_location: the device to load to.
            strict: whether the weights must fit exactly in any case.
            revise_keys: not used; the signature is mmengine's.

        Returns:
            The content of the file.

        Raises:
            CheckpointError: the file is missing, damaged or of another model.
        """
        exact = strict or self._resume or not isinstance(self._train_loop, BaseLoop)
        checkpoint, expected = read_checked(self, filename, map_location, exact), self.bare_model.state_dict()
        if self._resume:
            self.loaded = ckpt.outline_of(checkpoint, filename)
            settle(self, checkpoint, self.keep_updates, self.new_schedule)
            if self.param_schedulers is not None and "param_schedulers" in checkpoint:
                resumed.check_schedules(checkpoint["param_schedulers"], self.param_schedulers)
        # In this call, averaging hooks swap their weights with those of the model.
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        state = checkpoint["state_dict"] if exact else weights.fitting(expected, checkpoint["state_dict"])
        load_weights(self, state, exact)
        if self._resume and self.sharded:
            checkpoint["optimizer"] = sharding.sharded_optimizer(checkpoint["optimizer"], self.optim_wrapper.optimizer)
        self._has_loaded = True
        self.loaded_from, self.loaded_meta = str(filename), checkpoint["meta"]
        self.logger.info(f"loaded {filename}")
        return checkpoint

    def checkpoint_state(
        self, meta: dict, optimizer: bool = True, schedulers: bool = True, detached: bool = False
    ) -> dict:
        """All that a run needs to continue, as plain data on the CPU. It shares memory with a model on the CPU.

        With :attr:`joint_states` all processes have to call this, and the state of the first one is whole.

        Args:
            meta: numbers of completed epochs, ``epoch``, and of completed iterations, ``iter``.
            optimizer: whether to include the state of the optimizer.
            schedulers: whether to include the states of the parameter schedulers.
            detached: whether the state is a copy that shares no memory and does not wait for the device; see
                :func:`.checkpoints.detached` for when it is complete.
        """
        self.reports.settle()
        return state_of(self, meta, optimizer, schedulers, detached)

    @property
    def makes_states(self) -> bool:
        """Whether this process takes part in making a state: the first one does, or all of them do."""
        return self.rank == 0 or self.joint_states

    @property
    def iterations_of_update(self) -> int:
        """The number of iterations whose gradients make one update."""
        return getattr(self.optim_wrapper, "_accumulative_counts", 1)

    def write_state(self, iteration: int) -> None:
        """Write the state after a completed iteration of the current epoch, see :meth:`.StateFiles.write`."""
        if not self.makes_states:
            return
        state = self.checkpoint_state({"epoch": self.epoch, "iter": iteration})
        agreed(self, lambda: self.states.write(state))

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict | None = None,
        by_epoch: bool = True,
        backend_args: dict | None = None,
    ) -> None:
        """Write a checkpoint atomically, in the first process. The signature is mmengine's.

        Raises:
            NonFiniteError: a number is NaN or infinite, see :func:`.check_finite`. The file is not written.
            WriteError: the file cannot be written.
            ConfigError: ``file_client_args`` or ``backend_args`` ask for another place than a local folder.
        """
        if file_client_args or backend_args:
            raise ConfigError(
                "checkpoints are saved to local folders only: leave out file_client_args and backend_args"
            )
        if not self.makes_states:
            return
        if meta is None:
            ended = (1, 0) if by_epoch else (0, 1)
            meta = {"epoch": self.epoch + ended[0], "iter": self.iter + ended[1]}
        state = self.checkpoint_state(meta, save_optimizer, save_param_scheduler)
        path = Path(out_dir) / filename

        def write() -> None:
            check_finite(state)
            self.states.wait()  # the pointer to the last checkpoint must not go back to an earlier one
            self.states.save(state, path)

        agreed(self, write)
        if save_optimizer:
            self.last_saved = (meta["iter"], path)
