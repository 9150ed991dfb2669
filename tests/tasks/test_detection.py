"""Tests of training detectors: they learn, resume after a stop, start from classifiers and survive bad input."""

import copy
import itertools
import json
import re
from pathlib import Path

import blobs
import numpy as np
import pytest
import runs
import torch
from mmengine.dataset import DefaultSampler
from mmengine.registry import DefaultScope
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssm_core.errors import CheckpointError, ConfigError, DataError
from ssm_core.weights import read_file
from ssm_train.apis import train as run
from ssm_train.apis.infer import infer, inferencer_config
from ssm_train.apis.open_model import open_model
from ssm_train.apis.predictor import Predictor
from ssm_train.runtime import checkpoints as checkpoint
from ssm_train.runtime.config import load_config
from ssm_train.runtime.layout import Layout, PieceSampler, pieces_of

CONFIGS = Path(__file__).parents[2] / "configs"
QUADMAMBA = CONFIGS / "quadmamba" / "mask-rcnn_quadmamba-nano_nuclei-128x128.py"
MAMBATREE = CONFIGS / "mambatree" / "mask-rcnn_mambatree-nano_nuclei-128x128.py"
# mmengine shares loggers between runs that have the same name and start in the same second.
NUMBER = itertools.count()
QUICK = ["visualizer.tensorboard=False", "default_hooks.curves.plot=False", "default_hooks.curves.interval=1"]
TINY = ["model.backbone.depths=(1,1,1,1)", "model.backbone.dims=(8,16,16,16)", "model.neck.in_channels=[8,16,16,16]"]


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def configure(config, work_dir, *options):
    cfg = load_config(config, [*QUICK, f"experiment_name=det{next(NUMBER)}", *options])
    cfg.work_dir = str(work_dir)
    object.__setattr__(cfg, "_format_python_code", False)  # formatting would take a second per run
    return cfg


def on_blobs(root, work_dir, *options, config=QUADMAMBA):
    short = ["train_cfg.max_epochs=1", "param_scheduler.1.end=1", "default_hooks.non_finite.interval=100"]
    short += ["default_hooks.pictures.count=0"]
    return configure(config, work_dir, *blobs.options(root), *TINY, *short, *options)


def log_of(work_dir):
    return "".join(path.read_text() for path in Path(work_dir).rglob("*.log"))


def test_all_heads_of_another_number_of_classes_are_named(tmp_path):
    blobs.write(tmp_path, 2)
    heads = [f"model.roi_head.{head}.num_classes" for head in ("bbox_head", "mask_head")]
    cfg = on_blobs(tmp_path, tmp_path / "run", *(f"{key}=4" for key in heads))
    words = f"classes and the model 4 outputs: set {heads[0]}=2 {heads[1]}=2"
    with pytest.raises(ConfigError, match=f"2 {re.escape(words)}$"):
        run.train(cfg)


# --- Learning


@pytest.fixture(scope="module", params=[QUADMAMBA, MAMBATREE], ids=["quadmamba", "mambatree"])
def overfitted(request, nuclei_root, tmp_path_factory):
    """A model trained on one nuclei tile for 40 iterations and tested on the same tile."""
    root, folder = nuclei_root / "nuclei", tmp_path_factory.mktemp("overfit")
    with DefaultScope.overwrite_default_scope("mmdet"):
        cfg = configure(
            request.param,
            folder,
            f"train_dataloader.dataset.data_root={root}",
            *(f"{split}_dataloader.dataset.data_root={root}" for split in ("val", "test")),
            *(f"{split}_dataloader.dataset.ann_file=train.json" for split in ("val", "test")),
            *(f"{split}_dataloader.dataset.data_prefix.img=train" for split in ("val", "test")),
            *(f"{split}_evaluator.ann_file={root}/train.json" for split in ("val", "test")),
            *(f"{split}_dataloader.batch_size=1" for split in ("train", "val", "test")),
            *(f"{split}_dataloader.num_batch_per_epoch=1" for split in ("train", "val", "test")),
            "train_dataloader.dataset.pipeline.3.prob=0.0",
            "optim_wrapper.optimizer.lr=2e-3",
            "param_scheduler.0.end=5",
            "train_cfg.val_interval=40",
            "default_hooks.checkpoint.interval=40",
        )
        return root, folder, cfg, run.train(cfg)


def test_overfits_a_tile(overfitted):
    _, _, _, result = overfitted
    losses = [point["loss"] for point in result.curves["train"]]
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.65 * np.mean(losses[:5])
    assert result.last("coco/bbox_mAP_50") > 0.35
    assert result.last("coco/segm_mAP_50") > 0.35


def test_validation_is_shown(overfitted):
    _, folder, _, _ = overfitted
    names = {path.name for path in folder.glob("*/vis_data/vis_image/*.png")}
    assert names == {"prediction_0_40.png", "scans_0_40.png", "val_confusion_40.png"}


def test_the_checkpoint_is_tested_alike(overfitted, tmp_path):
    """The objects that the test writes give its figure, too."""
    root, folder, cfg, result = overfitted
    cfg.experiment_name = f"det{next(NUMBER)}"
    metrics = run.test(cfg, folder / "epoch_40.pth", tmp_path / "objects.json")
    assert metrics["coco/segm_mAP"] == result.last("coco/segm_mAP") > 0
    truth, objects = COCO(str(root / "train.json")), json.loads((tmp_path / "objects.json").read_text())
    evaluation = COCOeval(truth, truth.loadRes([{k: v for k, v in o.items() if k != "bbox"} for o in objects]), "segm")
    evaluation.params.imgIds = sorted({item["image_id"] for item in objects})
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert metrics["coco/segm_mAP"] == pytest.approx(evaluation.stats[0], abs=1e-3)
    table = (folder / "evaluation" / "test_classes.csv").read_text().splitlines()
    assert table[0].startswith("class,objects,bbox_AP,bbox_AP50,bbox_AP75,bbox_AR,segm_AP,")
    assert table[1].startswith("nucleus,")


def test_a_checkpoint_of_the_first_edition(overfitted, tmp_path):
    """The types in the checkpoint have other names. It is tested, opened and used all the same."""
    root, folder, cfg, result = overfitted
    path = runs.as_first_edition(folder / "epoch_40.pth", tmp_path / "epoch_40.pth")
    content = read_file(path)
    model = content["meta"]["model"]
    assert model["roi_head"]["bbox_roi_extractor"]["type"] == "ssm_core.engine.detection.Float32RoIExtractor"
    tested = copy.deepcopy(cfg)
    tested.experiment_name = f"det{next(NUMBER)}"
    assert run.test(tested, path)["coco/segm_mAP"] == result.last("coco/segm_mAP") > 0
    opened = open_model(str(path))
    assert opened.normalization.mean == pytest.approx([value / 255 for value in model["data_preprocessor"]["mean"]])
    for name, value in opened.network.state_dict().items():
        assert torch.equal(content["state_dict"][f"backbone.{name}"], value)
    image = sorted((root / "train").glob("*.png"))[0]
    files = (path, folder / "epoch_40.pth")
    one, other = (infer(Predictor(cfg, file, "cpu"), image, tmp_path / "out").predictions for file in files)
    assert one == other


def test_mmdets_inferencer_draws(overfitted, tmp_path):
    from mmdet.apis import DetInferencer

    root, folder, cfg, _ = overfitted
    cfg.dump(tmp_path / "config.py")
    inferencer = DetInferencer(inferencer_config(tmp_path / "config.py"), str(folder / "epoch_40.pth"), device="cpu")
    assert inferencer.model.dataset_meta["classes"] == ("nucleus",)
    image = sorted((root / "train").glob("*.png"))[0]
    found = inferencer(str(image), out_dir=str(tmp_path / "out"), no_save_pred=True)["predictions"][0]
    assert max(found["scores"]) > 0.3
    drawn = next((tmp_path / "out").rglob("*.png"))
    before, after = (np.array(Image.open(path).convert("RGB"), dtype=int) for path in (image, drawn))
    assert abs(before - after[: len(before)]).max() > 50  # below it may be a legend


def test_cascade_in_bfloat16(tmp_path):
    """COCO's recipe trains three box heads in bfloat16. Neither the losses nor the boxes may lose by that precision."""
    blobs.write(tmp_path)
    loaders = ("train", "val", "test")
    heads = [f"bbox_head.{stage}" for stage in range(3)]
    options = [
        *(o for o in blobs.options(tmp_path) if "bbox_head" not in o),
        *(
            f"{split}_dataloader.{key}"
            for split in loaders
            for key in (
                "dataset.ann_file=train.json",
                "dataset.data_prefix.img=train",
                "num_workers=0",
                "persistent_workers=False",
            )
        ),
        *(f"model.roi_head.{head}.{key}" for head in heads for key in ("num_classes=2", "fc_out_channels=32")),
    ]
    few = [f"model.train_cfg.rcnn.{stage}.sampler.num=8" for stage in range(3)]
    few += ["model.test_cfg.rpn.max_per_img=20", "model.test_cfg.rcnn.max_per_img=2"]
    few += ["model.train_cfg.rpn_proposal.max_per_img=20", "model.roi_head.mask_head.num_convs=1"]
    # 32 channels instead of 256, because few CPUs multiply in bfloat16 and the others are slow.
    narrow = ("neck.out", "rpn_head.in", "rpn_head.feat", "roi_head.bbox_roi_extractor.out", "roi_head.mask_head.in")
    narrow += ("roi_head.mask_head.conv_out", "roi_head.mask_roi_extractor.out", *(f"roi_head.{h}.in" for h in heads))
    few += [f"model.{part}_channels=32" for part in narrow]
    cascade = CONFIGS / "quadmamba" / "cascade-mask-rcnn_quadmamba-small_fpn_8xb2-1x_coco.py"
    cfg = configure(
        cascade, tmp_path / "run", *options, *few, *TINY,
        "load_from=none", "train_cfg.max_epochs=1", "optim_wrapper.dtype=bfloat16",
    )  # fmt: skip
    result = run.train(cfg)
    assert len(result.curves["train"]) == 2
    assert all(np.isfinite(point["loss"]) for point in result.curves["train"])
    assert result.last("coco/segm_mAP") is not None


# --- Resuming


def test_resuming_in_mid_epoch_changes_nothing(tmp_path):
    blobs.write(tmp_path)
    # Images of similar shape make a batch, as in the COCO configs.
    grouped = ["train_dataloader.batch_sampler.type=AspectRatioBatchSampler", "train_dataloader.drop_last=False"]
    options = [*grouped, "train_dataloader.batch_size=1", "train_cfg.val_interval=5"]
    every = ["default_hooks.checkpoint.by_epoch=False", "default_hooks.checkpoint.interval=1"]
    whole = run.train(on_blobs(tmp_path, tmp_path / "whole", *options, *every))
    # Rewrite the checkpoint into the form that the first edition wrote.
    path = runs.as_first_edition(tmp_path / "whole" / "iter_2.pth", tmp_path / "iter_2.pth")
    rest = run.train(on_blobs(tmp_path, tmp_path / "rest", *options), resume=path)
    assert [p["loss"] for p in rest.curves["train"]] == [p["loss"] for p in whole.curves["train"]][2:]
    assert len(whole.curves["train"]) == 4


def test_one_process_makes_the_batches_of_two(monkeypatch):
    """Every process groups its own images by their shape."""
    from mmdet.datasets import AspectRatioBatchSampler

    class Sizes(list):
        def get_data_info(self, index):
            return dict(width=self[index], height=8)

    def sampler(rank, processes):
        monkeypatch.setattr("mmengine.dataset.sampler.get_dist_info", lambda: (rank, processes))
        order = DefaultSampler(Sizes([1 + 3 * number % 16 for number in range(31)]), seed=3)
        order.set_epoch(1)
        return AspectRatioBatchSampler(order, batch_size=3)

    both, trained = [list(sampler(rank, 2)) for rank in range(2)], Layout(2, 3, 1, samples=31)
    alone = PieceSampler(sampler(0, 1), trained, pieces_of(trained, 1, 0, largest=6))
    assert list(alone) == [a + b for a, b in zip(*both, strict=True)]
    assert list(alone) == [a + b for a, b in zip(*both, strict=True)], "a second pass"


# --- Starting from a classifier


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """Write a checkpoint in the form that training a classifier gives it, and a converted one beside it."""
    from quadtree_ssm import QuadMamba

    arguments = dict(depths=(1, 1, 1, 1), dims=(8, 16, 16, 16), ssm_ratio=1.0, num_classes=5)
    torch.manual_seed(5)
    model = QuadMamba(**arguments)
    backbone = {"type": "quadtree_ssm.QuadMamba", **arguments, "token_order": "released"}
    path = tmp_path_factory.mktemp("classifier") / "epoch_300.pth"
    state = {f"backbone.{name}": tensor for name, tensor in model.state_dict().items()}
    checkpoint.save({"state_dict": state, "meta": {"model": {"type": "ImageClassifier", "backbone": backbone}}}, path)
    checkpoint.save({"state_dict": model.state_dict(), "meta": {"model": backbone}}, path.with_name("converted.pth"))
    return path


@pytest.mark.parametrize("name", ["epoch_300.pth", "converted.pth"])
def test_starts_from_a_classifier(tmp_path, classifier, name):
    blobs.write(tmp_path)
    path = classifier.with_name(name)
    # At a learning rate of zero, training leaves the weights unchanged.
    run.train(on_blobs(tmp_path, tmp_path / "run", f"load_from={path}", "optim_wrapper.optimizer.lr=0.0"))
    trained = read_file(tmp_path / "run" / "epoch_1.pth")["state_dict"]
    before = {k.removeprefix("backbone."): v for k, v in read_file(path)["state_dict"].items()}
    taken = [k for k in before if not k.startswith("head.")]
    assert all(torch.equal(trained[f"backbone.{k}"], before[k]) for k in taken)
    log = log_of(tmp_path / "run")
    assert re.search(
        rf"{name}: {len(taken)} tensors are taken; these start afresh: backbone.out_norms \(8\), neck", log
    )
    assert "these are not used: backbone.head (4)" in log
    assert "was trained with token_order='released', unlike this config" in log


def test_the_classifier_of_another_variant(tmp_path, classifier):
    blobs.write(tmp_path)
    cfg = on_blobs(
        tmp_path, tmp_path / "run", f"load_from={classifier}",
        "model.backbone.dims=(16,16,16,16)", "model.neck.in_channels=[16,16,16,16]", "model.backbone.ssm_ratio=2.0",
    )  # fmt: skip
    with pytest.raises(
        CheckpointError, match=r"does not fit this config's quadtree_ssm.QuadMamba 'nano': .*conv1.weight is \(4, "
    ):
        run.train(cfg)


# --- Bad input


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-200])


@pytest.fixture
def damaged(tmp_path):
    """Write eight images for each split. Five of the training images are sound, and one of those has no objects."""
    content = blobs.write(tmp_path, images=8)
    cut_off(tmp_path / "train" / "1.jpg")
    (tmp_path / "train" / "2.jpg").unlink()
    # This image does not have the size that its annotations and masks have.
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(tmp_path / "train" / "3.jpg")
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 14]
    content["annotations"][0]["category_id"] = 77
    content["annotations"][1]["bbox"] = [3, 3, 0, 0]
    (tmp_path / "train.json").write_text(json.dumps(content))
    cut_off(tmp_path / "val" / "0.jpg")
    return tmp_path


def test_bad_input_is_counted(damaged, tmp_path):
    no_filter = "train_dataloader.dataset.filter_cfg.filter_empty_gt=False"
    result = run.train(on_blobs(damaged, tmp_path / "run", no_filter, "train_dataloader.batch_size=2"))
    assert len(result.curves["train"]) == 4
    assert all(np.isfinite(point["loss"]) for point in result.curves["train"])
    assert "coco/bbox_mAP" in result.curves["val"][0]
    log = log_of(tmp_path / "run")
    assert "1 of 21 annotations of" in log
    assert "1 with an unknown category (first: 1)" in log
    assert "1 boxes made from masks (first: 2)" in log  # the one without area in the image
    assert "3 training images could not be used" in log
    assert all(re.search(rf"cannot use the image \S+train/{n}.jpg", log) for n in (1, 2, 3))
    assert "1 of 8 images could not be used and are not in the metrics" in log


def test_bad_input_stops_by_switch(damaged, tmp_path):
    with pytest.raises(DataError, match=r"annotation 1 of .* has an unknown category"):
        run.train(on_blobs(damaged, tmp_path / "a", "train_dataloader.dataset.bad_annotations=raise"))
    with pytest.raises(DataError, match=r"cannot use the image \S+train/[123].jpg"):
        run.train(on_blobs(damaged, tmp_path / "b", "train_dataloader.unreadable=raise"))


def test_a_diverged_run_names_its_images(tmp_path, monkeypatch):
    from ssm_core.errors import DivergedError
    from ssm_train.tasks.detection import FastTwoStageDetector

    blobs.write(tmp_path)
    loss = FastTwoStageDetector.loss
    diverged = lambda *a: {k: v * float("nan") if k == "loss_cls" else v for k, v in loss(*a).items()}  # noqa: E731
    monkeypatch.setattr(FastTwoStageDetector, "loss", diverged)
    with pytest.raises(DivergedError, match=r"loss is nan.*has 2 finite inputs: \S+train/\d.jpg, \S+train/\d.jpg"):
        run.train(on_blobs(tmp_path, tmp_path / "run"))
