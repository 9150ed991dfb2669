"""How a Runner builds its parts from a config: the model, data loaders, hooks, the optimizer and its schedules."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine import runner as mmengine_runner
from mmengine.device import get_device
from mmengine.dist import master_only
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import LogProcessor
from mmengine.runner.base_loop import BaseLoop
from torch import nn
from torch.utils.data import DataLoader

from ssm_core.errors import ConfigError
from ssm_train.data.built import build_dataset
from ssm_train.data.guarded import guarded
from ssm_train.data.samplers import check_sampler
from ssm_train.data.workers import check_batches
from ssm_train.runtime import loading_processes, sharding
from ssm_train.runtime.building import building_from_config, compile_parts, runs_as_graphs
from ssm_train.runtime.custom_keys import freeze, keys_in
from ssm_train.runtime.evaluator import ReadableEvaluator, told_data
from ssm_train.runtime.files import write_text_atomically
from ssm_train.runtime.iteration_info import our_log_processor, with_our_hooks
from ssm_train.runtime.launching import has_synchronised_norms, join_processes, wrap_for_processes
from ssm_train.runtime.logs import make_patient, shorten
from ssm_train.runtime.reproducibility import make_reproducible
from ssm_train.runtime.schedules import scale_to_update


class BuildingRunner(mmengine_runner.Runner):
    """mmengine's Runner with other ways to build the parts of a run. :class:`.Runner` trains with them."""

    # Whether the weights are sharded between the processes (the config's ``sharding``).
    sharded = False
    # Whether all processes take part in making a state, because each has a part of it.
    joint_states = False
    # Modules that the config's custom_keys freeze.
    frozen: Sequence[nn.Module] = ()

    def setup_env(self, env_cfg: dict) -> None:
        """Join the process group, by gloo if there is no GPU, and set up the rest as mmengine does.

        Raises:
            ConfigError: see :func:`join_processes`.
        """
        if self.distributed:
            join_processes(self.launcher, env_cfg)
        super().setup_env(env_cfg)

    def build_logger(self, log_level: int | str = "INFO", log_file: str | None = None, **options: Any) -> MMLogger:
        """Build a logger. Its file gets everything, the console only ``log_level`` and above without long listings."""
        logger = super().build_logger(log_level="INFO", log_file=log_file, **options)
        make_patient(logger.handlers)
        shorten(logger.handlers, logging.getLevelName(log_level) if isinstance(log_level, str) else log_level)
        return logger

    @master_only
    def dump_config(self) -> None:
        """Write the config of the run into the work folder, unless that would replace the file that the user wrote.

        The folder of the log has a copy in any case.
        """
        source = Path(self.cfg.filename or f"{self.timestamp}.py")
        path = Path(self.work_dir) / source.name
        if not (path.exists() and source.exists() and path.samefile(source)):
            write_text_atomically(path, self.cfg.dump())

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Move the model to its device and, in a run of several processes, wrap it for data parallelism.

        mmengine does this for a single process. It does not for several, because it would drop the activation of batch
        norms that have one (see :func:`synchronise_norms`). By default the wrapper keeps no copies of the gradients.
        A wrapper on the CPU gets no GPU numbers. What ``custom_keys`` freeze is frozen here, because a wrapper waits
        for the gradients of all parameters that are trained. A model to be sharded gets no wrapper.

        Raises:
            ConfigError: ``sync_bn`` is neither ``"torch"`` nor left out, or the settings of the wrapper are wrong, or
                see :func:`freeze`.
        """
        sync_bn = self.cfg.get("sync_bn")
        if sync_bn not in (None, "torch"):
            raise ConfigError(f"sync_bn is 'torch' or left out, not {sync_bn!r}")
        if not is_model_wrapper(model):
            self.frozen = freeze(model, keys_in(self.cfg.get("optim_wrapper")))
        if not (is_model_wrapper(model) or self.distributed or has_synchronised_norms(model)):
            return model.to(get_device())  # mmengine would say of every model what becomes of such norms
        if is_model_wrapper(model) or not self.distributed:
            return super().wrap_model(model_wrapper_cfg, model)
        if self.cfg.get("sharding") is not None:
            return model.to(get_device())
        settings = model_wrapper_cfg or {
            "broadcast_buffers": False,
            "find_unused_parameters": self.cfg.get("find_unused_parameters", False),
            "gradient_as_bucket_view": True,  # saves a copy of all gradients in every iteration
        }
        return wrap_for_processes(model, settings, synchronised=sync_bn is not None)

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a loader whose order and augmentations depend on the seed alone.

        Args:
            dataloader: a loader, which is returned as it is, or a config. Besides mmengine's keys, the config may have
                ``unreadable``: what to do with bad samples (see :class:`.GuardedDataset`). ``num_workers=None``
                leaves the number of loading processes to the machine (:func:`.loading_processes.choose`).
            seed: seed of the run.
            diff_rank_seed: whether the sampler of every process gets another seed.

        Raises:
            DataError: there are no data.
            ConfigError: the data are too few for a single batch, or see :func:`check_sampler`.
        """
        if isinstance(dataloader, DataLoader):
            return dataloader
        settings = dict(dataloader)
        unreadable = settings.pop("unreadable", "skip")
        if settings.get("num_workers", 0) is None:
            settings["num_workers"], words = loading_processes.choose("loading of data")
            MMLogger.get_current_instance().info(words)
        if isinstance(settings["dataset"], Mapping):
            settings["dataset"] = build_dataset(settings["dataset"])
        dataset = settings["dataset"]
        # mmengine copies what it is given. A function is not copied, and a dataset may be a list of a million samples.
        settings["dataset"] = {"type": lambda: dataset}
        if isinstance(settings.get("sampler"), Mapping):
            check_sampler(settings["sampler"])
        loader = mmengine_runner.Runner.build_dataloader(settings, seed, diff_rank_seed)
        check_batches(loader)
        return make_reproducible(loader, seed or 0, guarded(loader.dataset, unreadable))

    def register_default_hooks(self, hooks: dict[str, Hook | dict | None] | None = None) -> None:
        """Register mmengine's default hooks and those of the config. Two of mmengine's are replaced by ours."""
        super().register_default_hooks(with_our_hooks(hooks or {}))

    def build_log_processor(self, log_processor: LogProcessor | dict) -> LogProcessor:
        """Build the log processor of the config, by default ours."""
        return super().build_log_processor(our_log_processor(log_processor))

    def build_evaluator(self, evaluator: dict | list | Evaluator) -> Evaluator:
        """Build an evaluator that leaves out unreadable samples, or the evaluator that the config names."""
        if isinstance(evaluator, Evaluator) or "metrics" in evaluator:
            return super().build_evaluator(evaluator)
        return ReadableEvaluator(evaluator)

    def build_val_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the loop of the validations, whose evaluator learns which data they are."""
        return told_data(super().build_val_loop(loop))

    def build_test_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the loop of a test, whose evaluator learns which data they are."""
        return told_data(super().build_test_loop(loop))

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Build the optimizer, and before it shard the weights if the config says so.

        Raises:
            ConfigError: something in the config does not go together with sharding.
        """
        if self.cfg.get("sharding") is not None and not isinstance(optim_wrapper, OptimWrapper):
            self._shard()
        return super().build_optim_wrapper(optim_wrapper)

    def _shard(self) -> None:
        if not self.distributed:
            self.logger.warning("sharding has no effect: one process has all of the weights")
            return
        sharding.check(self)
        self._init_model_weights()
        sharding.shard(self.model, self.cfg.sharding)
        self.sharded = self.joint_states = True

    def _init_model_weights(self) -> None:
        """Initialise the weights, unless that was done before they were sharded."""
        if not self.sharded:
            super()._init_model_weights()

    def scale_lr(self, optim_wrapper: Any, auto_scale_lr: Mapping[str, Any] | None = None) -> None:
        """Scale the learning rate to the batch of an update, which can take several iterations. mmengine omits these.

        Args:
            optim_wrapper: the wrapper of the optimizer.
            auto_scale_lr: the config's ``auto_scale_lr``.
        """
        super().scale_lr(optim_wrapper, auto_scale_lr)
        if auto_scale_lr and auto_scale_lr.get("enable"):
            scale_to_update(optim_wrapper)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """Build the schedulers. mmengine calls this within :meth:`train`, where a config error would be a traceback.

        Raises:
            ConfigError: a scheduler refused its arguments.
        """
        with building_from_config():
            return super().build_param_scheduler(scheduler)

    def _maybe_compile(self, target: str) -> None:
        """Compile the backbone if the config asks for it. mmengine would compile ``target``, the whole step."""
        options = self.cfg.get("compile", False)
        if options is True and torch.cuda.is_available() and runs_as_graphs(self):
            options = {"mode": "reduce-overhead"}
            self.logger.info("the network runs as CUDA graphs: compile.mode=default compiles it without them")
        compile_parts(self.bare_model, options)

    @property
    def bare_model(self) -> nn.Module:
        """The model without wrappers for data parallelism or test-time augmentation."""
        model = self.model.module if is_model_wrapper(self.model) else self.model
        return model.module if isinstance(model, BaseTTAModel) else model
