"""mmengine's Runner, made reproducible, resumable at any iteration, and able to train on CPUs in several processes."""

import logging
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
from ssm_core.errors import CheckpointError, ConfigError, DivergedError, NonFiniteError
from ssm_train.data.guarded import guarded
from ssm_train.runtime import checkpoints as ckpt
from ssm_train.runtime import pretrained
from ssm_train.runtime.building import building_from_config, describe_model
from ssm_train.runtime.evaluator import ReadableEvaluator
from ssm_train.runtime.launching import join_processes, synchronise_norms, wrapper_settings
from ssm_train.runtime.reproducibility import make_reproducible, reseed
from ssm_train.runtime.trackers.wandb import run_identity

_FOREIGN = "; a file released by the models' authors has to go through tools/convert_checkpoint.py first"


class Runner(mmengine_runner.Runner):
    """Runs a training or a test from a config; see mmengine for the config's keys.

    It adds to mmengine's: every draw is a function of the seed and the place in the run (:mod:`.reproducibility`).
    Checkpoints are atomic and hold plain data (:mod:`.checkpoints`). A NaN stops training before it reaches the
    parameters. The console shows progress only, the log file everything. Processes without GPUs communicate by gloo.
    """

    # Iterations completed and file of the last checkpoint that can be resumed.
    last_saved: tuple[int, Path] | None = None
    # Weights to start from when there is nothing to resume.
    start_from: str | None = None

    def setup_env(self, env_cfg: dict) -> None:
        """Join the process group, by gloo where there is no GPU, and do what mmengine does."""
        if self.distributed:
            join_processes(self.launcher)
        super().setup_env(env_cfg)

    def build_logger(self, log_level: int | str = "INFO", log_file: str | None = None, **options: Any) -> MMLogger:
        """The log file has everything; the console has what is at least ``log_level``, without the long listings."""
        logger = super().build_logger(log_level="INFO", log_file=log_file, **options)
        level = logging.getLevelName(log_level) if isinstance(log_level, str) else log_level
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(max(handler.level, level))
                handler.addFilter(_is_short)
        return logger

    def build_visualizer(self, visualizer: Visualizer | dict | None = None) -> Visualizer:
        """mmengine's; a training that is resumed goes on in its run of Weights & Biases."""
        if isinstance(visualizer, dict) and visualizer.get("wandb") and self.rank == 0:
            identity = run_identity(self.work_dir, bool(self.cfg.get("resume")))
            visualizer = {"wandb_id": identity, **visualizer}
        return super().build_visualizer(visualizer)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Move the model to its device and, in a run of several processes, wrap it for data parallelism.

        The wrapper keeps no copies of the gradients, and a model on the CPU has no GPU numbers. mmengine does the rest
        for one process. Several processes do not go through mmengine, which would take the activation off the batch
        norms that have one (see :func:`synchronise_norms`).

        Raises:
            ConfigError: ``sync_bn`` is neither ``"torch"`` nor left out.
        """
        sync_bn = self.cfg.get("sync_bn")
        if sync_bn not in (None, "torch"):
            raise ConfigError(f"sync_bn is 'torch', or left out, not {sync_bn!r}")
        if is_model_wrapper(model) or not self.distributed:
            return super().wrap_model(model_wrapper_cfg, model)
        on_gpu = torch.cuda.is_available()
        model = synchronise_norms(model.to(get_device()), on_gpu, convert=sync_bn is not None)
        settings = model_wrapper_cfg or {
            "broadcast_buffers": False,
            "find_unused_parameters": self.cfg.get("find_unused_parameters", False),
            "gradient_as_bucket_view": True,  # spares every iteration a copy of all gradients
        }
        with building_from_config():
            return MODEL_WRAPPERS.build(wrapper_settings(settings, on_gpu), default_args={"module": model})

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a loader whose order and augmentations depend on the seed alone.

        Over mmengine's keys it takes ``unreadable``, what to do with bad samples (see :class:`.GuardedDataset`).
        """
        if isinstance(dataloader, DataLoader):
            return dataloader
        settings = dict(dataloader)
        unreadable = settings.pop("unreadable", "skip")
        loader = mmengine_runner.Runner.build_dataloader(settings, seed, diff_rank_seed)
        return make_reproducible(loader, seed or 0, guarded(loader.dataset, unreadable))

    def build_evaluator(self, evaluator: dict | list | Evaluator) -> Evaluator:
        """mmengine's, which does not know of unreadable samples; an evaluator of another type is built as it is."""
        if isinstance(evaluator, Evaluator) or "metrics" in evaluator:
            return super().build_evaluator(evaluator)
        return ReadableEvaluator(evaluator)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """mmengine's; it runs within :meth:`train`, where a faulty config would end in a traceback."""
        with building_from_config():
            return super().build_param_scheduler(scheduler)

    @property
    def bare_model(self) -> nn.Module:
        """The model without wrappers for data parallelism or test-time augmentation."""
        model = self.model.module if is_model_wrapper(self.model) else self.model
        return model.module if isinstance(model, BaseTTAModel) else model

    def train(self) -> nn.Module:
        """Train; a NaN ends in :class:`DivergedError` after the hooks' ``on_non_finite`` have saved what is good."""
        try:
            return super().train()
        except NonFiniteError as error:
            self.call_hook("on_non_finite", error=error)
            raise DivergedError(f"training stopped at iteration {self.iter + 1}: {error}") from error

    def stop_workers(self) -> None:
        """End the loading processes that loaders have kept; after the run, whichever way it ended.

        Left to the interpreter's exit, torch waits five seconds for each of them (pytorch/pytorch issue 81794).
        """
        for loop in (self._train_loop, self._val_loop, self._test_loop):
            # Only a loop that was built has a loader, and only a loader that keeps its processes an iterator.
            loader = getattr(loop, "dataloader", None)
            iterator = getattr(loader, "_iterator", None)
            if iterator is not None:
                iterator._shutdown_workers()
                loader._iterator = None

    def _maybe_compile(self, target: str) -> None:
        """Let torch.compile make one graph of the network, where the config has ``compile``, True or its arguments.

        Heads that say so (``compiles_with_backbone``) get one each.

        mmengine would compile ``target``, the whole step, with an optimizer and a log that break its graph. In place,
        so that names of parameters, checkpoints and the averaged model stay what they are.
        """
        options = self.cfg.get("compile", False)
        if options is False:
            return
        model = self.bare_model
        heads = [module for module in model.modules() if getattr(module, "compiles_with_backbone", False)]
        with building_from_config():
            for module in (model.backbone, *heads):
                module.compile(**({} if options is True else options))

    def load_or_resume(self) -> None:
        """Load what the config says; ``resume`` without a file takes the newest undamaged one of the work folder."""
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
        """Continue the run that a checkpoint was saved by, with that run's seed."""
        super().resume(filename, *args, **options)
        reseed(self.train_dataloader, self.seed)

    def load_checkpoint(
        self,
        filename: str,
        map_location: torch.device | str = "cpu",
        strict: bool = False,
        revise_keys: list[tuple[str, str]] | None = None,
    ) -> dict:
        """Load weights from a checkpoint of ours, or from a bare state dict of the model or of its backbone.

        A checkpoint to resume or to test has to fit exactly; weights to start a training from may differ in part, such
        as in the head. Addresses (``https://``, ``torchvision://`` …) are mmengine's business.

        Raises:
            CheckpointError: the file is missing, damaged or of another model.
        """
        if "://" in filename:
            return super().load_checkpoint(filename, map_location, strict)
        checkpoint = weights.read_file(filename, map_location)
        state, _ = weights.state_dict_of(checkpoint, filename)
        if "state_dict" not in checkpoint:
            checkpoint = {"state_dict": state}
        if "message_hub" in checkpoint:
            checkpoint["message_hub"] = ckpt.unpack_message_hub(checkpoint["message_hub"])
        # mmengine would run this text as Python when resuming. Older versions of it wrote the config there.
        checkpoint.get("meta", {}).pop("config", None)
        if self._resume and "optimizer" not in checkpoint:
            raise CheckpointError(f"{filename} has weights only and cannot be resumed: set load_from to start from it")
        expected = self.bare_model.state_dict()
        checkpoint["state_dict"] = weights.add_backbone_prefix(state, expected)

        exact = strict or self._resume or not isinstance(self._train_loop, BaseLoop)
        if exact:
            self._check_fit(filename, checkpoint, expected)
        else:
            self._check_start(filename, checkpoint, expected)
        # Averaging hooks exchange their weights with the model's here.
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        if exact:
            load_state_dict(self.bare_model, checkpoint["state_dict"], strict=True, logger=self.logger)
        else:
            self.bare_model.load_state_dict(weights.fitting(expected, checkpoint["state_dict"]), strict=False)
        self._has_loaded = True
        self.logger.info(f"loaded {filename}")
        return checkpoint

    def _check_fit(self, filename: str, checkpoint: dict, expected: dict[str, Tensor]) -> None:
        """Raise a :class:`CheckpointError` unless a checkpoint is of this very model."""
        names, words = weights.misfit(expected, checkpoint["state_dict"])
        if not names:
            return
        meta = checkpoint.get("meta", {})
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
        """Say what starts afresh; raise a :class:`CheckpointError` unless half of the backbone fits or more."""
        taken = weights.fitting(expected, checkpoint["state_dict"])
        backbone = [name for name in expected if name.startswith("backbone.")] or list(expected)
        if 2 * sum(name in taken for name in backbone) < len(backbone):
            self._check_fit(filename, checkpoint, expected)
        if report := weights.report(expected, checkpoint["state_dict"]):
            self.logger.warning(f"{filename}: {report}")
        network = getattr(self.bare_model, "backbone", self.bare_model)
        trained = checkpoint.get("meta", {}).get("model", {})
        if differences := pretrained.other_arguments(trained, self.cfg.get("model", {}), network):
            self.logger.warning(f"{filename} was trained with {', '.join(differences)}; this config has it otherwise")

    def checkpoint_state(self, meta: dict, optimizer: bool = True, schedulers: bool = True) -> dict:
        """Everything a run continues from, as plain data on the CPU (sharing memory with a model that is there).

        Args:
            meta: ``epoch``, the epochs completed, and ``iter``, the iterations completed.
            optimizer: include the optimizer's state.
            schedulers: include the parameter schedulers' states.
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
        return ckpt.on_cpu(state)

    def _test_transform(self) -> dict | None:
        """How a classifier's images are scaled, which its weights mean nothing without; None for other tasks."""
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
        """Write a checkpoint atomically; the signature is mmengine's.

        Raises:
            NonFiniteError: a weight is NaN or infinite; the file is not written.
        """
        if file_client_args or backend_args:
            raise ConfigError("checkpoints are saved to local folders only: leave out file_client_args, backend_args")
        if meta is None:
            ended = (1, 0) if by_epoch else (0, 1)
            meta = {"epoch": self.epoch + ended[0], "iter": self.iter + ended[1]}
        state = self.checkpoint_state(meta, save_optimizer, save_param_scheduler)
        check_finite(state)
        path = Path(out_dir) / filename
        ckpt.save(state, path)
        if save_optimizer:
            self.last_saved = (meta["iter"], path)


def check_finite(state: dict) -> None:
    """Raise :class:`NonFiniteError` when a weight in a checkpoint's state, or in its moving average, is not finite."""
    for part in ("state_dict", "ema_state_dict"):
        if (bad := weights.first_non_finite(state.get(part, {}))) is not None:
            raise NonFiniteError(f"{bad} is not finite")


def _is_short(record: logging.LogRecord) -> bool:
    """Keep listings of the environment, the config and the hooks off the console."""
    return record.levelno > logging.INFO or "\n" not in record.getMessage()
