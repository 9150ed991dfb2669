"""Lines that work, from which nonsense is made, and the files that both need."""

from pathlib import Path

import blobs
import numpy as np
import runs
import small_language
from command_line import CONFIGS
from hostile.nonsense import Paths
from PIL import Image

CLASSIFICATION = CONFIGS / "quadmamba/quadmamba-nano_digits.py"
DETECTION = CONFIGS / "quadmamba/mask-rcnn_quadmamba-nano_nuclei-128x128.py"
SEGMENTATION = CONFIGS / "mambatree/upernet_mambatree-nano_nuclei-128x128.py"
LANGUAGE = CONFIGS / "mambatree_l/wiki/mambatree-l-4m_alpaca-demo.py"
LOADERS = ("train", "val", "test")
SHORT = ("train_dataloader.num_batch_per_epoch=1", "val_dataloader.num_batch_per_epoch=1",
         "visualizer.tensorboard=False", "default_hooks.curves.plot=False")  # fmt: skip
QUICK = (*SHORT, *(f"{split}_dataloader.{key}" for split in LOADERS
                   for key in ("num_workers=0", "persistent_workers=False", "batch_size=2")))  # fmt: skip
NO_PICTURES = "default_hooks.pictures.count=0"


def trainings(folder: Path) -> dict[Path, list[str]]:
    """A config of every task, with the options by which it trains for one or two iterations.

    Args:
        folder: the folder that :func:`make_data` was given.
    """
    rows = [f"{split}_dataloader.dataset.{key}" for split in LOADERS for key in
            (f"path={folder / 'lm/rows.json'}", f"tokenizer.path={folder / 'lm/pretrained'}")]  # fmt: skip
    tiles = [f"{split}_dataloader.dataset.data_root={folder / 'tiles'}" for split in LOADERS]
    widths = ["model.neck.in_channels=[8,16,16,16]"]
    heads = ["model.decode_head.in_channels=[8,16,16,16]", "model.decode_head.channels=16",
             "model.auxiliary_head.in_channels=16", "model.auxiliary_head.channels=8"]  # fmt: skip
    two = ["train_cfg.max_iters=2", "train_cfg.val_interval=2", "param_scheduler.0.end=1", "param_scheduler.1.begin=1",
           "param_scheduler.1.end=2", "default_hooks.checkpoint.interval=2"]  # fmt: skip
    return {
        CLASSIFICATION: [*runs.TINY, *SHORT, "train_cfg.max_epochs=1", NO_PICTURES],
        DETECTION: [*runs.TINY, *widths, *QUICK, *blobs.options(folder / "blobs"), "train_cfg.max_epochs=1",
                    "param_scheduler.1.end=1", NO_PICTURES],
        SEGMENTATION: [*runs.TINY, *heads, *QUICK, *tiles, *two, NO_PICTURES],
        LANGUAGE: [*QUICK, *rows, f"model.backbone.path={folder / 'lm/pretrained'}", "train_cfg.max_epochs=1",
                   "param_scheduler.0.end=2", "optim_wrapper.dtype=float32", "default_hooks.samples.count=0"],
    }  # fmt: skip


def make_data(folder: Path) -> None:
    """Write two small images or rows for every task."""
    (folder / "blobs").mkdir()
    blobs.write(folder / "blobs", images=2)
    draw = np.random.RandomState(0)
    for split in ("train", "val"):
        for name, shape in ((split, (64, 64, 3)), (f"{split}_labels", (64, 64))):
            place = folder / "tiles" / name
            place.mkdir(parents=True)
            for number in range(2):
                values = draw.randint(0, 3 if len(shape) == 2 else 255, shape)
                Image.fromarray(values.astype(np.uint8)).save(place / f"{number}.png")
    (folder / "lm").mkdir()
    small_language.write_folder(folder / "lm")


def make_places(folder: Path) -> Paths:
    """Make files and folders that are of no use, and return their paths."""
    (folder / "empty").mkdir()
    (folder / "nothing.py").write_bytes(b"")
    (folder / "text.py").write_text("this is no config\n")
    (folder / "raises.py").write_text("x = 1\nmodel = 1 / 0\n")
    (folder / "circle.py").write_text("_base_ = './circle.py'\n")
    (folder / "orphan.py").write_text("_base_ = './nowhere.py'\n")
    (folder / "exits.py").write_text("raise SystemExit(0)\n")
    (folder / "list.json").write_text("[1, 2]")
    (folder / "broken.yml").write_text("a: [1,\n b: {")
    (folder / "binary").write_bytes(bytes(range(256)) * 8)
    (folder / "binary.py").write_bytes(bytes(range(256)) * 8)
    below, long = folder / "text.py" / "x", folder / ("a" * 300)
    names = ("empty", "nothing.py", "text.py", "raises.py", "circle.py", "orphan.py", "exits.py", "list.json",
             "broken.yml", "binary", "binary.py", "missing", "missing.py", "missing.pth")  # fmt: skip
    read = ("", *(str(folder / name) for name in names), str(below), f"{long}.py", "/dev/null")
    pictures = [str(folder / f"empty/{name}") for name in ("a.png", "b.json")]
    for name in pictures:
        Path(name).mkdir()
    file = (str(folder / "empty"), str(below), f"{below}.png", f"{long}.png", *pictures, "/proc/nowhere/x.png")
    return Paths(read, file, (str(folder / "text.py"), str(below), str(long), "/proc/nowhere"))


def make_checkpoint(path: Path) -> None:
    """Write a checkpoint of the classification config with random weights."""
    import torch

    from ssm_train.runtime.config import load_config
    from ssm_train.tasks import task_of

    cfg = load_config(CLASSIFICATION, list(runs.TINY))
    torch.save({"state_dict": task_of(cfg).build().state_dict(), "meta": {}}, path)


def of_tools(folder: Path) -> dict[str, list[str]]:
    """Arguments with which each tool would work, and which a subcommand begins."""
    photo, checkpoint, config = folder / "photo.png", folder / "good.pth", CLASSIFICATION
    Image.new("L", (32, 32), 128).save(photo)
    make_checkpoint(checkpoint)
    make_data(folder)
    tiny = ["--cfg-options", *runs.TINY]
    short = [*tiny, *SHORT, "train_cfg.max_epochs=1", "default_hooks.pictures.count=0"]
    read, both = [str(config)], [str(config), str(checkpoint)]
    return {
        "train": [*read, *short],
        "test": [*both, *tiny],
        "infer": [*both, str(photo), "--out", "out", *tiny],
        "export": [*both, "--format", "torch_export", "--out", "net.pt2", "--size", "32", "32", *tiny],
        "ablate": [*read, "--grid", "seed=0", *short],
        "convert_checkpoint": [str(checkpoint), "converted.pth"],
        "explore": ["--side", "32", str(checkpoint)],
        "language_study": ["--text", str(photo), "--rows", str(photo), "--work-dir", "study"],
        "merge_adapters": [*both, "merged", *tiny],
        "prepare_data": ["fashion-mnist"],
        "publish_checkpoint": [str(checkpoint), "--out", "published"],
        "quickstart": [],
        "train_tokenizer": ["tokens", str(folder / "text.py")],
        "analysis/browse_dataset": [*read, "--out", "browsed", "--count", "1"],
        "analysis/cost": [*read, "--size", "32", "32", *tiny],
        "analysis/model_zoo": [],
        "analysis/print_config": read,
        "analysis/visualize": ["quadtree", str(config), str(photo), "--out", "seen.png"],
        "benchmarks/distributed": [*read, "--processes", "1", "--batch", "8"],
        "benchmarks/language": ["--models", "chain", "--width", "16", "--layers", "1", "--lengths", "8"],
        "benchmarks/ops": ["--ops", "quadtree_order", "--shapes", "1x8x8x8", "--seconds", "0.01"],
        "benchmarks/stopping": read,
        "benchmarks/throughput": ["--models", "quadmamba_lite", "--size", "32", "--batch", "1", "--rounds", "2"],
    }  # fmt: skip


# Tools whose good lines take minutes or write into the repository. They get only lines that cannot be meant.
STARTS_OTHERS = {"language_study"}
SLOW = {"ablate", "quickstart", "language_study", "analysis/model_zoo", "benchmarks/distributed", "benchmarks/language",
        "benchmarks/stopping", "benchmarks/throughput", "explore"}  # fmt: skip
