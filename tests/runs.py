"""Starts short training runs in their own processes."""

import contextlib
import faulthandler
import functools
import gc
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import traceback
from pathlib import Path

import bad_places
from mmengine.hooks import Hook

CONFIGS = Path(__file__).parents[1] / "configs"
# A run has two epochs. An epoch has six iterations of eight digits.
SMALL = (
    "train_cfg.max_epochs=2",
    "train_dataloader.batch_size=8",
    "train_dataloader.num_batch_per_epoch=6",
    "val_dataloader.num_batch_per_epoch=1",
    "visualizer.tensorboard=False",
    "default_hooks.curves.plot=False",
    "default_hooks.class_report.picture=False",
    "default_hooks.pictures.count=0",
    "default_hooks.logger.interval=1",
    "default_hooks.curves.interval=1",
    "log_level=WARNING",
)
TINY = ("model.backbone.depths=(1,1,1,1)", "model.backbone.dims=(8,16,16,16)")
RESNET = ("resnet/resnet18_digits.py", "model.backbone.name=test_efficientnet")
QUADMAMBA = ("quadmamba/quadmamba-nano_digits.py", *TINY, "model.backbone.drop_path_rate=0.2")
MAMBATREE = ("mambatree/mambatree-nano_digits.py", *TINY)
EVERYTHING_RANDOM = (
    "model.mixup_alpha=0.8",
    "model.cutmix_alpha=1.0",
    "train_dataloader.dataset.transform.random_erasing=0.5",
    "train_dataloader.dataset.transform.hflip=0.5",
)
# What processes have imported when they start.
PRELOADED = [
    "torch", "timm", "mmengine.runner", "setuptools", "yapf.yapflib.yapf_api", "sklearn.datasets",
    "matplotlib.backends.backend_agg", "ssm_train.apis.train", "mmcv.ops", "ssm_train.runtime.config",
    "ssm_train.runtime.loops", "ssm_train.runtime.trackers.visualizer", "ssm_train.tasks.classification.classifier",
    "quadtree_ssm.registry", "tree_ssm.registry", "torchmetrics",
]  # fmt: skip
EMA = dict(type="EMAHook", momentum=0.1, update_buffers=True)


def configure(name, work_dir, *options):
    from ssm_train.runtime.config import load_config

    cfg = load_config(CONFIGS / name, [*SMALL, *options])
    cfg.work_dir = str(work_dir)
    object.__setattr__(cfg, "_format_python_code", False)  # formatting would take a second per run
    return cfg


def train(name, work_dir, *options, hooks=(), launcher="none", **settings):
    from ssm_train.apis import train as run

    cfg = configure(name, work_dir, *options)
    cfg.custom_hooks = list(hooks)
    cfg.launcher = launcher
    return run.train(cfg, **settings)


def train_tool(name, work_dir, *options, **settings):
    """Train as tools/train.py does, and exit with the same status."""
    from ssm_train.apis import cli

    sys.exit(cli.run(lambda: train(name, work_dir, *options, **settings)))


class PoisonInputHook(Hook):
    """Puts a NaN into the last image of one batch."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.iteration:
            data_batch["inputs"][-1, 0, 0, 0] = float("nan")


class PoisonParameterHook(Hook):
    """Sets a weight to NaN after an update, without the optimizer."""

    priority = "LOWEST"

    def __init__(self, iteration, parameter):
        self.iteration = iteration
        self.parameter = parameter

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            runner.bare_model.get_parameter(self.parameter).data.view(-1)[1] = float("nan")


class KillHook(Hook):
    """Kills the process after a given iteration."""

    priority = "LOWEST"

    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), signal.SIGKILL)


class FillDiskHook(Hook):
    """Fills the disk of the work folder after an iteration, and gives the room back after a later one."""

    priority = "HIGHEST"

    def __init__(self, full, free=0):
        self.full, self.free = full, free

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.full:
            self.filler = bad_places.fill(Path(runner.work_dir).parent)
        if runner.iter + 1 == self.free:
            self.filler.unlink()


class DeleteFolderHook(Hook):
    """Deletes the work folder after an iteration."""

    priority = "HIGHEST"

    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            shutil.rmtree(runner.work_dir)


class SignalHook(Hook):
    """Sends SIGTERM to its own process after an iteration."""

    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), signal.SIGTERM)


class LateHook(Hook):
    """Reads values late on the CPU, as on a device that computes beside the host."""

    runs_late = True

    def before_train(self, runner):
        runner.reports.beside = True

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        assert runner.reports.late


def train_on_disk(name, disk, size, *options, hooks=(), resume=False):
    """Train in the folder ``run`` of a new disk, as tools/train.py does."""
    bad_places.disk(disk, size)
    train_tool(name, disk / "run", *options, hooks=hooks, resume=resume)


def train_and_die(name, work_dir, iteration, *options, hooks=(), resume=False):
    hooks = [*hooks, dict(type="runs.KillHook", iteration=iteration)]
    train(name, work_dir, *options, hooks=hooks, resume=resume)


def train_and_die_while_saving(name, work_dir, number, *options):
    """Train until half of the checkpoint ``number``, counted from 1, is written. Kill the process there."""
    import torch

    saves, save = [], torch.save

    def half_save(state, file):
        saves.append(state)
        if len(saves) < number:
            return save(state, file)
        save(state, file)
        file.truncate(file.tell() // 2)
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    torch.save = half_save
    train(name, work_dir, *options)


def train_distributed(name, work_dir, rank, size, port, *options, **settings):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    train(name, work_dir, *options, launcher="pytorch", **settings)


def train_distributed_tool(*arguments, **settings):
    """Train as a process of several, as tools/train.py does, and exit with the same status."""
    from ssm_train.apis import cli

    sys.exit(cli.run(lambda: train_distributed(*arguments, **settings)))


@functools.cache
def context():
    """Return the context that starts processes. Its server has done the slow imports and runs no thread of a test."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # What is imported asks whether there is a GPU. Without this, CUDA would begin in the server and refuse its forks.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    fresh = multiprocessing.get_context("forkserver")
    fresh.set_forkserver_preload(PRELOADED)
    return fresh


def _call(function, log, *arguments, **options):
    gc.freeze()  # the server's imports are never garbage, so Python need not search them
    for descriptor, name in ((1, log), (2, f"{log}.err")):
        with open(name, "w") as file:
            os.dup2(file.fileno(), descriptor)
    faulthandler.enable()  # SIGABRT prints where each thread is
    try:
        import torch

        torch.set_num_threads(1)
        function(*arguments, **options)
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(70)  # the process class would print the traceback again


def start(function, log, *arguments, **options):
    process = context().Process(target=_call, args=(function, str(log), *arguments), kwargs=options)
    process.start()
    return process


def finish(process, log, expected=0):
    process.join(300)
    if process.exitcode is None:  # or Python would wait for it when the tests have ended
        os.kill(process.pid, signal.SIGABRT)
        process.join(10)
        process.kill()
    printed = Path(log).read_text()[-2000:] + Path(f"{log}.err").read_text()[-2000:]
    assert process.exitcode == expected, f"exit {process.exitcode}:\n{printed}"


def call(function, log, *arguments, expected=0, **options):
    """Run in a fresh process. The test fails unless its exit status is the expected one."""
    finish(start(function, log, *arguments, **options), log, expected)


def free_port():
    """A port that nobody listens on.

    Connections of other tests get ports from 32768 on, so that none of them gets this one before it is used.
    """
    # Not the default generator: runs seed it, and two processes of tests would get the same ports.
    for port in random.SystemRandom().sample(range(20000, 30000), 100):
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port among a hundred")


def last_state(work_dir):
    from ssm_core.weights import read_file
    from ssm_train.runtime.checkpoints import pointed

    return read_file(pointed(work_dir))


# Names in a checkpoint, and the first edition's names for the same things.
FIRST_EDITION = {
    "ssm_train.tasks.detection.": "ssm_core.engine.detection.",
    "ssm_train.tasks.segmentation.": "ssm_core.engine.segmentation.",
    "ssm_train": "ssm_core",
}


def as_first_edition(path, copy):
    """Write a copy of a checkpoint in which the types have the first edition's names. Return the copy's path."""
    import torch

    from ssm_core.weights import read_file

    def renamed(value):
        if isinstance(value, dict):
            return {key: renamed(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(renamed, value))
        if isinstance(value, str):
            for now, then in FIRST_EDITION.items():
                value = value.replace(now, then)
        return value

    state = renamed(read_file(path))
    assert "ssm_core" in str(state["message_hub"]["runtime_info"]["cfg"])
    torch.save(state, copy)
    return copy


def differing(a, b, place=""):
    """Return the places at which two nested states differ by one bit or more."""
    import torch

    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [place]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f"{place}: {a.keys() ^ b.keys()}"]
        return [d for key in a for d in differing(a[key], b[key], f"{place}.{key}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{place}: lengths"]
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differing(x, y, f"{place}.{i}")]
    return [] if a == b else [place]
