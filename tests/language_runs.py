"""Starts short trainings of small language models in two processes."""

import os
import sys

import runs

CONFIG = runs.CONFIGS / "mambatree_l" / "wiki" / "mamba-4m-lora_alpaca-demo.py"
ITERATIONS = 6  # two epochs of three
TEMPLATE = ("template.with_input=Q {instruction} / {input} A ", "template.without_input=Q {instruction} A ")
SMALL = (
    "visualizer.tensorboard=False", "default_hooks.curves.plot=False", "default_hooks.curves.interval=1",
    "default_hooks.logger.interval=1", "default_hooks.samples.count=0", "default_hooks.checkpoint.max_keep_ckpts=9",
    "log_level=WARNING", "process_timeout=20", "train_cfg.max_epochs=2", "train_dataloader.num_batch_per_epoch=3",
    "param_scheduler.0.end=2", "optim_wrapper.dtype=float32",
    "optim_wrapper.optimizer.lr=0.01", "optim_wrapper.optimizer.fused=True", "optim_wrapper.clip_grad={'max_norm':0.5}",
    "optim_wrapper.accumulative_counts=1",
)  # fmt: skip


def options_for(folder):
    """The options of a training of all weights on the files of a folder (small_language.write_folder)."""
    loaders = [
        f"{part}_dataloader.{key}"
        for part in ("train", "val", "test")
        for key in ("num_workers=0", "batch_size=4", f"dataset.path={folder / 'rows.json'}",
                    f"dataset.tokenizer.path={folder / 'pretrained'}", *(f"dataset.{line}" for line in TEMPLATE))
    ]  # fmt: skip
    network = [f"model.backbone.path={folder / 'pretrained'}", "model.backbone.lora=None"]
    return [*SMALL, *loaders, *(f"rows.{line}" for line in TEMPLATE), *network]


def set_rank(rank, port):
    """Let this process be one of two."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )


def train(work_dir, options, rank, port, hooks=(), **settings):
    """Train as one of two processes, or alone, as tools/train.py does, and exit with the same status."""
    from ssm_train.apis import cli
    from ssm_train.apis import train as run
    from ssm_train.runtime.config import load_config

    if rank is not None:
        set_rank(rank, port)

    def go():
        cfg = load_config(CONFIG, options)
        object.__setattr__(cfg, "_format_python_code", False)  # formatting would take a second per run
        cfg.work_dir, cfg.custom_hooks = str(work_dir), list(hooks)
        cfg.launcher = "none" if rank is None else "pytorch"
        run.train(cfg, **settings)

    sys.exit(cli.run(go))


def train_two(work_dir, options, expected=0, **settings):
    """Train in two processes. Return what each of them printed."""
    port, logs = runs.free_port(), [work_dir.with_name(f"{work_dir.name}.rank{rank}") for rank in range(2)]
    ranks = [runs.start(train, log, work_dir, options, rank, port, **settings) for rank, log in enumerate(logs)]
    for process, log in zip(ranks, logs, strict=True):
        runs.finish(process, log, expected)
    return [log.read_text() + log.with_name(f"{log.name}.err").read_text() for log in logs]
