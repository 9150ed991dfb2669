"""mmengine's Runner, made reproducible, resumable at any iteration, and able to train on CPUs in several processes."""

import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmengine import runner as mmengine_runner
from mmengine.device import get_device
from mmengine.dist import broadcast_object_list, master_only
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import MODEL_WRAPPERS
from mmengine.runner.base_loop import BaseLoop
from mmengine.runner.checkpoint import load_state_dict
from mmengine.visualization import Visualizer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ssm_core import weights
from ssm_core.errors import CheckpointError, ConfigError, DivergedError, NonFiniteError, StoppedError, UserError
from ssm_train.data.guarded import guarded
from ssm_train.data.workers import StoppableLoader, check_batches
from ssm_train.runtime import checkpoints as ckpt
from ssm_train.runtime import pretrained, resumed
from ssm_train.runtime.building import building_from_config, describe_model
from ssm_train.runtime.continuing import settle
from ssm_train.runtime.evaluator import ReadableEvaluator
from ssm_train.runtime.launching import join_processes, synchronise_norms, wrapper_settings
from ssm_train.runtime.logs import make_patient, threads_may_fail_to_write
from ssm_train.runtime.reproducibility import make_reproducible, reseed
from ssm_train.runtime.rescue import RescueHook
from ssm_train.runtime.states import StateFiles, check_finite
from ssm_train.runtime.stop_hook import StopHook
from ssm_train.runtime.stopping import StopSignals, StopTraining
from ssm_train.runtime.trackers.wandb import run_identity

_FOREIGN = "; convert a file that the models' authors released with tools/convert_checkpoint.py first"


class Runner(mmengine_runner.Runner):
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
    # What of a run to resume may differ from the config; see :func:`.continuing.settle`.
    keep_updates = False
    new_schedule = False

    def setup_env(self, env_cfg: dict) -> None:
        """Join the process group, by gloo if there is no GPU, and set up the rest as mmengine does.

        Raises:
            ConfigError: see :func:`join_processes`.
        """
        if self.distributed:
            join_processes(self.launcher)
        super().setup_env(env_cfg)

    def build_logger(self, log_level: int | str = "INFO", log_file: str | None = None, **options: Any) -> MMLogger:
        """Build a logger. Its file gets everything, the console only ``log_level`` and above without long listings."""
        logger = super().build_logger(log_level="INFO", log_file=log_file, **options)
        make_patient(logger.handlers)
        level = logging.getLevelName(log_level) if isinstance(log_level, str) else log_level
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(max(handler.level, level))
                handler.addFilter(_is_short)
        return logger

    def build_visualizer(self, visualizer: Visualizer | dict | None = None) -> Visualizer:
        """Build the visualizer. A training that is resumed continues its run of Weights & Biases."""
        if isinstance(visualizer, dict) and visualizer.get("wandb") and self.rank == 0:
            identity = run_identity(self.work_dir, bool(self.cfg.get("resume")))
            visualizer = {"wandb_id": identity, **visualizer}
        return super().build_visualizer(visualizer)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Move the model to its device and, in a run of several processes, wrap it for data parallelism.

        mmengine does this for a single process. It does not for several, because it would drop the activation of batch
        norms that have one (see :func:`synchronise_norms`). By default the wrapper keeps no copies of the gradients.
        A wrapper on the CPU gets no GPU numbers.

        Raises:
            ConfigError: ``sync_bn`` is neither ``"torch"`` nor left out, or the settings of the wrapper are wrong.
        """
        sync_bn = self.cfg.get("sync_bn")
        if sync_bn not in (None, "torch"):
            raise ConfigError(f"sync_bn is 'torch' or left out, not {sync_bn!r}")
        if is_model_wrapper(model) or not self.distributed:
            return super().wrap_model(model_wrapper_cfg, model)
        on_gpu = torch.cuda.is_available()
        model = synchronise_norms(model.to(get_device()), on_gpu, convert=sync_bn is not None)
        settings = model_wrapper_cfg or {
            "broadcast_buffers": False,
            "find_unused_parameters": self.cfg.get("find_unused_parameters", False),
            "gradient_as_bucket_view": True,  # saves a copy of all gradients in every iteration
        }
        with building_from_config():
            return MODEL_WRAPPERS.build(wrapper_settings(settings, on_gpu), default_args={"module": model})

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a loader whose order and augmentations depend on the seed alone.

        Args:
            dataloader: a loader, which is returned as it is, or a config. Besides mmengine's keys, the config may have
                ``unreadable``: what to do with bad samples (see :class:`.GuardedDataset`).
            seed: seed of the run.
            diff_rank_seed: whether the sampler of every process gets another seed.

        Raises:
            ConfigError: the data are too few for a single batch.
        """
        if isinstance(dataloader, DataLoader):
            return dataloader
        settings = dict(dataloader)
        unreadable = settings.pop("unreadable", "skip")
        loader = mmengine_runner.Runner.build_dataloader(settings, seed, diff_rank_seed)
        check_batches(loader)
        return make_reproducible(loader, seed or 0, guarded(loader.dataset, unreadable))

    def build_evaluator(self, evaluator: dict | list | Evaluator) -> Evaluator:
        """Build an evaluator that leaves out unreadable samples, or the evaluator that the config names."""
        if isinstance(evaluator, Evaluator) or "metrics" in evaluator:
            return super().build_evaluator(evaluator)
        return ReadableEvaluator(evaluator)

    def build_val_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the loop of the validations, whose evaluator learns how many samples there are."""
        return _with_size(super().build_val_loop(loop))

    def build_test_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the loop of a test, whose evaluator learns how many samples there are."""
        return _with_size(super().build_test_loop(loop))

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """Build the schedulers. mmengine calls this within :meth:`train`, where a config error would be a traceback.

        Raises:
            ConfigError: a scheduler refused its arguments.
        """
        with building_from_config():
            return super().build_param_scheduler(scheduler)

    @property
    def bare_model(self) -> nn.Module:
        """The model without wrappers for data parallelism or test-time augmentation."""
        model = self.model.module if is_model_wrapper(self.model) else self.model
        return model.module if isinstance(model, BaseTTAModel) else model

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
        self.register_hook(stop_hook)
        try:
            with threads_may_fail_to_write():
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
            stop_hook.signals.restore()
            self.states.wait()

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

    def _maybe_compile(self, target: str) -> None:
        """Compile the backbone if the config has ``compile``, which is True or the arguments of ``torch.compile``.

        Other modules with ``compiles_with_backbone`` are compiled too, each on its own. mmengine would compile
        ``target``, the whole step, in which the optimizer and the log break the graph. Modules are compiled in place,
        so that the names of parameters, the checkpoints and the averaged model do not change.
        """
        options = self.cfg.get("compile", False)
        if options is False:
            return
        model = self.bare_model
        others = [module for module in model.modules() if getattr(module, "compiles_with_backbone", False)]
        with building_from_config():
            for module in (model.backbone, *others):
                module.compile(**({} if options is True else options))

    def load_or_resume(self) -> None:
        """Load the checkpoint of the config; ``resume`` without a file takes the newest good one of the work folder."""
        if self._has_loaded:
            return
        if self._resume and self._load_from is None:
            found = [ckpt.newest_good(self.work_dir, self.logger) if self.rank == 0 else None]
            broadcast_object_list(found)
            if found[0] is None:
                self.logger.warning(f"no checkpoint to resume from in {self.work_dir}: starting from the beginning")
                self._resume, self._load_from = False, self.start_from
            else:
                self._load_from = str(found[0])
        super().load_or_resume()

    def resume(self, filename: str, *args: Any, **options: Any) -> None:
        """Continue the run that saved a checkpoint, with the seed of that run.

        Raises:
            CheckpointError: the file is missing, damaged or of another model, or its state of the run is incomplete.
        """
        try:
            super().resume(filename, *args, **options)
            self.states.resumed(self.iter, Path(filename))
        except UserError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, AssertionError, RuntimeError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise CheckpointError(f"{filename} cannot be resumed, the state of its run is damaged: {reason}") from error
        counts = (self.epoch, self.iter)
        if not all(isinstance(count, int) and count >= 0 for count in counts):
            raise CheckpointError(f"{filename} cannot be resumed, its numbers of epochs and iterations are {counts}")
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
        checkpoint = weights.read_file(filename, map_location)
        state, _ = weights.state_dict_of(checkpoint, filename)
        if "state_dict" not in checkpoint:
            checkpoint = {"state_dict": state}
        if self._resume and "message_hub" in checkpoint:
            checkpoint["message_hub"] = resumed.message_hub(checkpoint["message_hub"], Path(self.work_dir))
        checkpoint["meta"] = ckpt.meta_of(checkpoint)
        # Older versions of mmengine wrote the config here. Nothing needs it, and mmengine would run its text as Python.
        checkpoint["meta"].pop("config", None)
        if self._resume and "optimizer" not in checkpoint:
            raise CheckpointError(f"{filename} has weights only and cannot be resumed: set load_from to start from it")
        if self._resume:
            optimizer = getattr(self.optim_wrapper, "optimizer", None)
            resumed.check_optimizer(checkpoint["optimizer"], self.optim_wrapper.state_dict(), optimizer)
            settle(self, checkpoint, self.keep_updates, self.new_schedule)
            if self.param_schedulers is not None and "param_schedulers" in checkpoint:
                resumed.check_schedules(checkpoint["param_schedulers"], self.param_schedulers)
        expected = self.bare_model.state_dict()
        checkpoint["state_dict"] = weights.add_backbone_prefix(state, expected)

        exact = strict or self._resume or not isinstance(self._train_loop, BaseLoop)
        if exact:
            self._check_fit(filename, checkpoint, expected)
        else:
            self._check_start(filename, checkpoint, expected)
        for part in (checkpoint["state_dict"], checkpoint.get("ema_state_dict") or {}):
            weights.check_finite({k: v for k, v in part.items() if isinstance(v, Tensor)}, filename)
        # In this call, averaging hooks swap their weights with those of the model.
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        if exact:
            load_state_dict(self.bare_model, checkpoint["state_dict"], strict=True, logger=self.logger)
        else:
            self.bare_model.load_state_dict(weights.fitting(expected, checkpoint["state_dict"]), strict=False)
        self._has_loaded = True
        self.logger.info(f"loaded {filename}")
        return checkpoint

    def _check_fit(self, filename: str, checkpoint: dict, expected: dict[str, Tensor]) -> None:
        """Raise a :class:`CheckpointError` unless all weights of a checkpoint fit the model."""
        names, words = weights.misfit(expected, checkpoint["state_dict"])
        if not names:
            return
        meta = checkpoint["meta"]
        source = ""
        if "model" in meta:
            config = meta.get("config_file", meta.get("config"))
            source = f" holds {describe_model(meta['model'])}{f' (config {config})' if config else ''},"
        built = describe_model(self.cfg.get("model", {}))
        raise CheckpointError(
            f"{filename}{source or ' holds another model,'} and does not fit this config's {built}: "
            f"{len(names)} tensors differ, the first: {words}{'' if source else _FOREIGN}"
        )

    def _check_start(self, filename: str, checkpoint: dict, expected: dict[str, Tensor]) -> None:
        """Warn of what does not fit. Raise a :class:`CheckpointError` unless at least half of the backbone fits."""
        taken = weights.fitting(expected, checkpoint["state_dict"])
        backbone = [name for name in expected if name.startswith("backbone.")] or list(expected)
        if 2 * sum(name in taken for name in backbone) < len(backbone):
            self._check_fit(filename, checkpoint, expected)
        if report := weights.report(expected, checkpoint["state_dict"]):
            self.logger.warning(f"{filename}: {report}")
        network = getattr(self.bare_model, "backbone", self.bare_model)
        trained = checkpoint["meta"].get("model", {})
        if differences := pretrained.other_arguments(trained, self.cfg.get("model", {}), network):
            self.logger.warning(f"{filename} was trained with {', '.join(differences)}, unlike this config")

    def checkpoint_state(
        self, meta: dict, optimizer: bool = True, schedulers: bool = True, detached: bool = False
    ) -> dict:
        """All that a run needs to continue, as plain data on the CPU. It shares memory with a model on the CPU.

        Args:
            meta: numbers of completed epochs, ``epoch``, and of completed iterations, ``iter``.
            optimizer: whether to include the state of the optimizer.
            schedulers: whether to include the states of the parameter schedulers.
            detached: whether the state is a copy that shares no memory and does not wait for the device; see
                :func:`.checkpoints.detached` for when it is complete.
        """
        state = {
            "meta": {
                **meta,
                "seed": self.seed,
                "experiment_name": self.experiment_name,
                "config_file": Path(self.cfg.filename or "").name,
                "model": ckpt.plain(self.cfg.get("model", {})),
                "dataset_meta": ckpt.plain(getattr(self.train_dataloader.dataset, "metainfo", None)),
                "test_transform": self._test_transform(),
            },
            "state_dict": dict(self.bare_model.state_dict()),
            "message_hub": ckpt.pack_message_hub(self.message_hub.state_dict()),
        }
        if optimizer:
            state["optimizer"] = self.optim_wrapper.state_dict()
        if schedulers and isinstance(self.param_schedulers, dict):
            state["param_schedulers"] = {k: [s.state_dict() for s in v] for k, v in self.param_schedulers.items()}
        elif schedulers and self.param_schedulers is not None:
            state["param_schedulers"] = [s.state_dict() for s in self.param_schedulers]
        self.call_hook("before_save_checkpoint", checkpoint=state)
        return ckpt.detached(state) if detached else ckpt.on_cpu(state)

    def _test_transform(self) -> dict | None:
        """Config of the transform of the test images, which the weights depend on; None if the dataset has none."""
        loader = self.cfg.get("test_dataloader") or self.cfg.get("val_dataloader") or {}
        return ckpt.plain(loader.get("dataset", {}).get("transform"))

    @master_only
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
        """Write a checkpoint atomically. The signature is mmengine's.

        Raises:
            NonFiniteError: a weight is NaN or infinite. The file is not written.
            WriteError: the file cannot be written.
            ConfigError: ``file_client_args`` or ``backend_args`` ask for another place than a local folder.
        """
        if file_client_args or backend_args:
            raise ConfigError(
                "checkpoints are saved to local folders only: leave out file_client_args and backend_args"
            )
        if meta is None:
            ended = (1, 0) if by_epoch else (0, 1)
            meta = {"epoch": self.epoch + ended[0], "iter": self.iter + ended[1]}
        state = self.checkpoint_state(meta, save_optimizer, save_param_scheduler)
        check_finite(state)
        self.states.wait()  # the pointer to the last checkpoint must not go back to an earlier one
        path = Path(out_dir) / filename
        self.states.save(state, path)
        if save_optimizer:
            self.last_saved = (meta["iter"], path)


def _with_size(loop: BaseLoop) -> BaseLoop:
    if isinstance(loop.evaluator, ReadableEvaluator):
        loop.evaluator.size = len(loop.dataloader.dataset)
    return loop


def _is_short(record: logging.LogRecord) -> bool:
    """Whether a record is shown on the console. Listings of the environment, the config and the hooks are not."""
    return record.levelno > logging.INFO or "\n" not in record.getMessage()
