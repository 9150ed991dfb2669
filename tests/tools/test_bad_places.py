"""Every tool onto full and read-only disks, below files and over limits: one sentence, and nothing changed.

The tools run in one process, which mounts disks of its own. As a program this gives every tool every place:
PYTHONPATH=.:tests python tests/tools/test_bad_places.py
"""

import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path

import bad_places
import numpy as np
import pytest
import runs
import torch
from command_line import CONFIGS, run
from PIL import Image

pytestmark = pytest.mark.usefixtures("own_disks")
DIGITS = str(CONFIGS / "quadmamba/quadmamba-nano_digits.py")
TUNED = CONFIGS / "mambatree_l/wiki/mamba-4m_alpaca-demo.py"
OPTIONS = ("--cfg-options", *runs.TINY)


def inputs(folder):
    """Write what the tools read: a checkpoint, a photo, texts, a language model and a part of Cityscapes."""
    import small_language
    from mmengine.registry import MODELS, DefaultScope

    from ssm_train.runtime.config import load_config
    from tree_ssm.language import load_network

    cfg = load_config(DIGITS, runs.TINY)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        torch.save({"state_dict": MODELS.build(cfg.model).state_dict(), "meta": {}}, folder / "model.pth")
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (200, 200), dtype=np.uint8)).save(folder / "photo.png")
    small_language.write_folder(folder)
    network = load_network(folder / "pretrained")
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in network.state_dict().items()}}, folder / "language.pth")
    for place, name in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
        for split in ("train", "val"):
            city = folder / "cityscapes" / place / split / "ulm"
            city.mkdir(parents=True)
            for number in range(9):
                Image.new("L", (32, 32), 7).save(city / f"ulm_{number}_{name}.png")
    return folder


# What each tool is called with, for the inputs in a folder and a place to write to, and the name of a file that it
# writes there. A tool that writes a folder is given one.
TOOLS = {
    "publish_checkpoint": (lambda i, out: (i / "model.pth", "--out", out), "model-{digits}.pth"),
    "infer": (lambda i, out: (DIGITS, i / "model.pth", i / "photo.png", "--out", out, *OPTIONS), "photo.png"),
    "train": (lambda i, out: (DIGITS, "--work-dir", out, *OPTIONS), "notes.txt"),
    "test": (lambda i, out: (DIGITS, i / "model.pth", "--work-dir", out, *OPTIONS), "curves.json"),
    "analysis/browse_dataset": (lambda i, out: (DIGITS, "--out", out), "0000_class5.png"),
    "analysis/visualize": (
        lambda i, out: ("quadtree", "quadmamba_lite", i / "photo.png", "--out", out / "tree.png"), "tree.png"
    ),
    "export": (
        lambda i, out: (DIGITS, i / "model.pth", "--format", "torch_export", "--out", out / "net.pt2", *OPTIONS),
        "net.pt2",
    ),
    "prepare_data": (lambda i, out: ("cityscapes", "--root", out, "--from", i / "cityscapes"), "kept"),
    "train_tokenizer": (lambda i, out: (out, i / "text.txt"), "tokenizer.json"),
    "merge_adapters": (
        lambda i, out: (TUNED, i / "language.pth", out, "--cfg-options", f"model.backbone.path={i / 'pretrained'}",
                        f"test_dataloader.dataset.tokenizer.path={i / 'pretrained'}"), "config.json"
    ),
    "ablate": (lambda i, out: (DIGITS, "--grid", "seed=0,1", "--work-dir", out), "table.md"),
}  # fmt: skip


ADDING = ("train", "test", "infer", "analysis/browse_dataset", "prepare_data")


def full(folder):
    place = bad_places.disk(folder / "full", "64k")
    return place, place, lambda: bad_places.fill(place, 4096), contextlib.nullcontext()


def read_only(folder):
    place = bad_places.disk(folder / "read_only", "64k")
    return place, place, lambda: bad_places.protect(place), contextlib.nullcontext()


def without_files(folder):
    place = bad_places.disk(folder / "without", "64k", files=3)
    return place, place, lambda: (place / "filler").touch(), contextlib.nullcontext()


def below_a_file(folder):
    place = folder / "below"
    place.mkdir()
    (place / "file").touch()
    return place, place / "file", lambda: None, contextlib.nullcontext()


def too_large(folder):
    place = folder / "limited"
    place.mkdir()
    return place, place, lambda: None, bad_places.file_limit(4096)


PLACES = {
    full: "disk full",
    read_only: "the disk is read-only",
    without_files: "takes no more files",
    below_a_file: "a file and no folder",
    too_large: "file too large",
}


def listed(place):
    """Return all that is in a folder, with the contents."""
    return {path.name: path.read_bytes() if path.is_file() else None for path in place.rglob("*")}


def answer(tool, arguments):
    """Run a tool and return its exit status, what it printed and what it wrote on stderr."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            status = run(tool, *arguments)
        except BaseException as error:
            status = f"{type(error).__name__}: {error}"
    return status, out.getvalue(), errors.getvalue()


def attack(folder, pairs):
    """Give tools bad places, and print what is wrong with the answers. Exit with their number."""
    torch.set_num_threads(1)
    os.chdir(folder)
    (folder / "inputs").mkdir()
    given, wrong = inputs(folder / "inputs"), 0
    for tool, kind in pairs:
        arguments, kept = TOOLS[tool]
        root = folder / tool.replace("/", "-")
        root.mkdir(exist_ok=True)
        place, out, spoil, limits = kind(root)
        (place / kept).write_text("old")
        spoil()
        before = listed(place)
        with limits:
            status, _, errors = answer(tool, arguments(given, out))
        line = errors.rpartition("error: ")[2]
        said = line.startswith("cannot write") and PLACES[kind] in line and line.count("\n") == 1
        said = said and "Traceback" not in errors and errors.count("error: ") == 1
        after = listed(place)
        # Pictures that are whole stay, and a log that says why the training did not begin.
        changed = after != (after if tool in ADDING else {}) | before
        if status != 1 or not said or changed:
            wrong += 1
            print(f"{tool} {kind.__name__}: {status=} {changed=} {errors[-600:]}", file=sys.__stdout__)
            print(sorted(set(after) ^ set(before)), file=sys.__stdout__, flush=True)
    sys.exit(wrong)


# A tool of each kind of output meets every place, the others a full disk. A training is started only where the place is
# looked at first, and a limit is none where the first files are small.
SHORT = [("publish_checkpoint", kind) for kind in PLACES] + [
    (tool, read_only if tool == "ablate" else full) for tool in TOOLS if tool != "publish_checkpoint"
]
LEFT_OUT = [(tool, too_large) for tool in ("train", "test", "analysis/browse_dataset", "prepare_data", "ablate")]
ALL = [(tool, kind) for tool in TOOLS for kind in PLACES if (tool, kind) not in [*LEFT_OUT, ("ablate", full)]]


def test_a_bad_place_is_named_and_nothing_changes(tmp_path):
    runs.call(attack, tmp_path / "log", tmp_path, SHORT)


if __name__ == "__main__":
    process = runs.context().Process(target=attack, args=(Path(tempfile.mkdtemp()), ALL))
    process.start()
    process.join()
    sys.exit(process.exitcode)
