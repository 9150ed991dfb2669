"""No tool ends well when nothing was learnt or measured: it says so in one sentence, and the exit status is 1."""

import itertools
import json

import pytest
import runs
import torch
from command_line import error_of
from hostile import good_lines
from hostile.good_lines import CLASSIFICATION, DETECTION, LANGUAGE, SEGMENTATION
from PIL import Image

from ssm_train.commands.program import COMMANDS

# mmengine shares loggers between runs that have the same name and start in the same second.
NUMBER = itertools.count()
# What is done: the tool, its config, what comes between the config and its options, the options, and what is said.
# TMP is a folder of `make_nothing`.
FROZEN = "optim_wrapper.paramwise_cfg={'custom_keys': {'backbone': {'frozen': True}}}"
EMA = "custom_hooks=[{'type': 'EMAHook', 'interval': 0}]"
NOTHING_SAVED = ("default_hooks.checkpoint.interval=-1", "default_hooks.checkpoint.save_last=False",
                 "default_hooks.checkpoint.save_best=None")  # fmt: skip
TABLE = {
    "train: no epochs": ("train", CLASSIFICATION, [], ["train_cfg.max_epochs=0"], "train_cfg.max_epochs has to be 1"),
    "train: no iterations": (
        "train", SEGMENTATION, [], ["train_cfg.max_iters=0"], "train_cfg.max_iters has to be 1 or more"),
    "train: no batches": (
        "train", CLASSIFICATION, [], ["train_dataloader.num_batch_per_epoch=0"], "num_batch_per_epoch has to be 1"),
    "train: no interval of validations": (
        "train", LANGUAGE, [], ["train_cfg.val_interval=0"], "train_cfg.val_interval has to be 1 or more"),
    "train: validations after the end": (
        "train", CLASSIFICATION, [], ["train_cfg.val_begin=2"], "val_begin=2 is after train_cfg.max_epochs=1"),
    "train: validations after the end, by iterations": (
        "train", SEGMENTATION, [], ["train_cfg.val_begin=9"], "val_begin=9 is after train_cfg.max_iters=2"),
    "train: an interval of 0 between checkpoints": (
        "train", CLASSIFICATION, [], ["default_hooks.checkpoint.interval=0"], "checkpoint.interval has to be 1 or"),
    "train: 0 checkpoints to keep": (
        "train", CLASSIFICATION, [], ["default_hooks.checkpoint.max_keep_ckpts=0"], "max_keep_ckpts has to be 1"),
    "train: nothing is saved": ("train", CLASSIFICATION, [], NOTHING_SAVED, "would save nothing of the training"),
    "train: an interval of 0 between averages": (
        "train", CLASSIFICATION, [], [EMA], "custom_hooks.0.interval has to be 1 or more, not 0"),
    "train: a best checkpoint by what is not measured": (
        "train", CLASSIFICATION, [], ["default_hooks.checkpoint={'save_best': 'top2', 'rule': 'greater'}"],
        "save_best is 'top2', which the validation does not measure (did you mean 'top1'?): it gives top1,"),
    "train: all is frozen": ("train", LANGUAGE, [], [FROZEN], "there is nothing to train: every parameter"),
    "train: no objects": (
        "train", DETECTION, [], ["train_dataloader.dataset.ann_file=TMP/no_objects.json"], "no_objects.json"),
    "train: no label maps": (
        "train", SEGMENTATION, [], ["train_dataloader.dataset.data_root=TMP/no_maps"], "no_maps"),
    "train: no rows": ("train", LANGUAGE, [], ["train_dataloader.dataset.path=TMP/no_rows.json"], "no_rows.json"),
    "train: a subset of nothing": (
        "train", SEGMENTATION, [], ["train_dataloader.dataset.indices=0"], "has no samples: check where its data are"),
    "train: a validation of nothing": (
        "train", SEGMENTATION, [], ["val_dataloader.dataset.indices=0"], "has no samples: check where its data are"),
    "test: no batches": (
        "test", CLASSIFICATION, ["TMP/classification.pth"], ["test_dataloader.num_batch_per_epoch=0"],
        "test_dataloader.num_batch_per_epoch has to be 1 or more"),
    "test: no samples": (
        "test", SEGMENTATION, ["TMP/segmentation.pth"], ["test_dataloader.dataset.indices=0"], "has no samples"),
    "test: no label": (
        "test", SEGMENTATION, ["TMP/segmentation.pth"], ["test_dataloader.dataset.data_root=TMP/no_labels"],
        "nothing was measured: "),
    "test: no images": (
        "test", DETECTION, ["TMP/detection.pth"],
        ["test_dataloader.dataset.ann_file=TMP/no_images.json", "test_evaluator.ann_file=TMP/no_images.json"],
        "no_images.json"),
    "test: no objects": (
        "test", DETECTION, ["TMP/detection.pth"],
        ["test_dataloader.dataset.ann_file=TMP/no_objects.json", "test_evaluator.ann_file=TMP/no_objects.json"],
        "nothing was measured: coco/bbox_mAP, coco/segm_mAP are NaN"),
    "test: no rows": ("test", LANGUAGE, [], ["test_dataloader.dataset.path=TMP/no_rows.json"], "no_rows.json"),
    "test: a suite of no documents": (
        "test", LANGUAGE, [], ["default_hooks.harness.evaluate.limit=0"], "evaluate.limit has to be 1 or more"),
    "infer: an empty folder": (
        "infer", CLASSIFICATION, ["TMP/classification.pth", "TMP/no_maps", "--out", "TMP/out"], [], "there is no"),
    "infer: no readable image": (
        "infer", CLASSIFICATION, ["TMP/classification.pth", "TMP/broken", "--out", "TMP/out"], [],
        "not one of the 2 images in"),
    "export: photos that are not there": (
        "export", CLASSIFICATION, ["TMP/classification.pth", "--format", "torch_export", "--image", "TMP/no.png"], [],
        "no.png"),
    "browse_dataset: no samples": (
        "browse_dataset", SEGMENTATION, ["--out", "TMP/out"], ["train_dataloader.dataset.indices=0"],
        "has no samples"),
    "merge_adapters: no language model": (
        "merge_adapters", CLASSIFICATION, ["TMP/classification.pth", "TMP/out"], [], "describes no language model"),
}  # fmt: skip
OTHERS = {
    "train_tokenizer: no text": ("train_tokenizer", ["TMP/out", "TMP/no_text.txt"], "there is nothing to learn from"),
    "publish_checkpoint: no weights": ("publish_checkpoint", ["TMP/no_weights.pth"], "no_weights.pth"),
    "convert_checkpoint: no weights": (
        "convert_checkpoint", ["TMP/classification.pth", "TMP/out.pth", "--prefix", "nowhere."], "nowhere."),
}  # fmt: skip


def make_nothing(folder):
    """Write data of every task, checkpoints, and the same with nothing in them."""
    from ssm_train.runtime.config import load_config
    from ssm_train.tasks import task_of

    good_lines.make_data(folder)
    trainings = good_lines.trainings(folder)
    for config in (CLASSIFICATION, DETECTION, SEGMENTATION):
        cfg = load_config(config, trainings[config])
        task = task_of(cfg)
        name = type(task).__name__.lower()
        torch.save({"state_dict": task.build().state_dict(), "meta": {}}, folder / f"{name}.pth")
    torch.save({"state_dict": {}, "meta": {}}, folder / "no_weights.pth")
    content = json.loads((folder / "blobs/val.json").read_text())
    (folder / "no_objects.json").write_text(json.dumps(content | {"annotations": []}))
    (folder / "no_images.json").write_text(json.dumps(content | {"annotations": [], "images": []}))
    (folder / "no_rows.json").write_text("[]")
    (folder / "no_text.txt").write_text("")
    for name in ("no_maps/train", "no_maps/train_labels", "no_labels/val", "no_labels/val_labels", "broken"):
        (folder / name).mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (64, 64)).save(folder / f"no_labels/val/{number}.png")
        Image.new("L", (64, 64), 255).save(folder / f"no_labels/val_labels/{number}.png")
        (folder / f"broken/{number}.png").write_bytes(b"no image")
    return trainings


@pytest.fixture(scope="module")
def nothing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nothing")
    return folder, make_nothing(folder)


def line_of(name, folder, trainings, work_dir):
    """Return the tool, its arguments, and what it has to say."""
    if name in OTHERS:
        tool, arguments, words = OTHERS[name]
        return tool, [a.replace("TMP", str(folder)) for a in arguments], words
    tool, config, between, options, words = TABLE[name]
    named = [f"experiment_name=nothing{next(NUMBER)}"]
    given = [*trainings[config], *named, *options]
    folders = ["--work-dir", str(work_dir)] if tool in ("train", "test") else []
    arguments = [str(config), *between, *folders, "--cfg-options", *given]
    return tool, [a.replace("TMP", str(folder)) for a in arguments], words


@pytest.mark.parametrize("name", [*TABLE, *OTHERS])
@pytest.mark.filterwarnings("ignore")
def test_nothing_is_no_success(nothing, capsys, tmp_path, name):
    tool, arguments, words = line_of(name, *nothing, tmp_path / "run")
    assert words in error_of(capsys, tool, *arguments)


def test_a_comparison_of_runs_without_the_metric(tmp_path, capsys):
    """The run is done, as a run of a config without validations is, and its curves have no metric."""
    from ssm_train.apis.run_records import RECORD
    from ssm_train.apis.sweep_runs import SweepSettings

    settings = SweepSettings(str(CLASSIFICATION), ("seed=0",), tuple(runs.TINY), tmp_path)
    (tmp_path / "seed=0").mkdir()
    given = settings.identity_of({"randomness.seed": "0"})
    record = {"given": given, "status": "done", "seconds": 1.0, "error": ""}
    (tmp_path / "seed=0" / RECORD).write_text(json.dumps(record))
    (tmp_path / "seed=0/curves.json").write_text(json.dumps({"train": [], "val": []}))
    arguments = ("--grid", "seed=0", "--work-dir", tmp_path, "--cfg-options", *runs.TINY)
    line = error_of(capsys, "ablate", CLASSIFICATION, *arguments)
    assert line == "error: there is nothing to compare: no validation of the 1 runs measured top1"


def test_what_has_nothing_left_to_do_says_so(nothing, tmp_path):
    """A complete run can be given again, as batch systems do. A rate of 0 may be meant."""
    _, trainings = nothing
    options = [*trainings[CLASSIFICATION], "optim_wrapper.optimizer.lr=0.0"]
    for name, settings in (("first", {}), ("again", {"resume": True})):
        runs.call(_train, tmp_path / name, options, tmp_path / "run", **settings)
    assert "optim_wrapper.optimizer.lr is 0: nothing is learnt, unless a schedule" in (tmp_path / "first").read_text()
    words = "nothing is left to train: the run has completed its 1 epochs; give more as train_cfg.max_epochs to go on"
    assert words in (tmp_path / "again").read_text()
    assert words not in (tmp_path / "first").read_text()


def _train(options, work_dir, **settings):
    from ssm_train.apis.train import train
    from ssm_train.runtime.config import load_config

    cfg = load_config(CLASSIFICATION, options)
    cfg.work_dir = str(work_dir)
    train(cfg, **settings)


def test_every_command_is_here_or_cannot_do_nothing():
    """A command without a line here is named with the reason."""
    without = {
        "ablate": "above",
        "cost": "looks at a model, and needs no data",
        "dist_test": "starts test",
        "dist_train": "starts train",
        "doctor": "examines the installation",
        "explore": "waits for photos until it is ended",
        "language_study": "gives its data to train_tokenizer, train and test",
        "prepare_data": "counts what is there, see tests/tools/test_prepare_data.py",
        "print_config": "prints what it is given",
        "quickstart": "brings its data along",
        "slurm_train": "starts train",
        "visualize": "draws the photos and runs that it is given",
    }
    commands = {command.module for command in COMMANDS.values()}
    assert commands == {line[0] for line in (*TABLE.values(), *OTHERS.values())} | set(without)
