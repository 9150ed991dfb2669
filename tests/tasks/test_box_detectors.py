"""Detectors without masks, trained on files that have boxes alone: they learn, resume exactly, test and predict."""

import itertools
import json
from pathlib import Path

import blobs
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from torch import nn

from ssm_core.flops import activation_bytes, count_pass
from ssm_train.apis import train as run
from ssm_train.apis.analyse import count_cost
from ssm_train.apis.infer import infer
from ssm_train.apis.predictor import Predictor
from ssm_train.runtime.config import load_config
from ssm_train.tasks import task_of

CONFIGS = Path(__file__).parents[2] / "configs"
NUMBER = itertools.count()
QUICK = [
    "visualizer.tensorboard=False", "default_hooks.curves.plot=False", "default_hooks.curves.interval=1",
    "default_hooks.pictures.count=0", "default_hooks.class_report.picture=False",
    "model.backbone.depths=(1,1,1,1)", "model.backbone.dims=(8,16,16,16)", "train_cfg.max_epochs=1",
    "param_scheduler.1.end=1", "train_dataloader.batch_size=1",
]  # fmt: skip
HEADS = {"faster-rcnn": "roi_head.bbox_head", "retinanet": "bbox_head", "fcos": "bbox_head", "dino": "bbox_head"}
# Each method with one of the families.
CASES = [("quadmamba", "faster-rcnn"), ("mambatree", "retinanet"), ("quadmamba", "fcos"), ("mambatree", "dino")]


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def configure(family, method, root, work_dir, *options):
    cfg = load_config(
        CONFIGS / family / f"{method}_{family}-nano_nuclei-128x128.py",
        [
            *QUICK,
            f"experiment_name=boxes{next(NUMBER)}",
            *(f"{split}_dataloader.dataset.data_root={root}" for split in ("train", "val", "test")),
            *(f"{split}_evaluator.ann_file={root}/val.json" for split in ("val", "test")),
            *(f"{split}_dataloader.dataset.pipeline.1.scale=(64,64)" for split in ("val", "test")),
            "train_dataloader.dataset.pipeline.2.scale=(64,64)",
            f"model.{HEADS[method]}.num_classes=2",
            f"model.neck.in_channels={[8, 16, 16, 16] if method == 'faster-rcnn' else [16, 16, 16]}",
            # Networks of one stage that have hardly learnt are sure of nothing.
            *(["model.test_cfg.score_thr=0.001"] if method in ("retinanet", "fcos") else []),
            *options,
        ],
    )
    cfg.work_dir = str(work_dir)
    object.__setattr__(cfg, "_format_python_code", False)  # formatting would take a second per run
    return cfg


# --- What they are made of


class Measured(nn.Module):
    """What is counted of a model, as a function of images."""

    def __init__(self, task):
        super().__init__()
        self.task, self.model = task, task.build()

    def forward(self, images):
        self.task.measure(self.model, images)


@pytest.mark.parametrize(("family", "method"), CASES)
def test_the_cost_is_that_of_a_real_pass(family, method):
    """Nothing is computed when a model is counted, and the counts are those of a pass that computes."""
    cfg = load_config(
        CONFIGS / family / f"{method}_{family}-nano_nuclei-128x128.py", ["model.backbone.depths=(1,1,1,1)"]
    )
    found, real = count_cost(cfg, (64, 96)), Measured(task_of(cfg))
    one, two = (activation_bytes(real, torch.randn(count, 3, 64, 96)) for count in (1, 2))
    assert found.parameters == sum(parameter.numel() for parameter in real.parameters())
    assert found.flops == count_pass(real, torch.randn(1, 3, 64, 96))
    assert found.activations == two - one


def differences(own, other, place=""):
    """Keys whose values differ between two configs."""
    if not (isinstance(own, dict) and isinstance(other, dict)):
        return set() if own == other else {place}
    return set().union(
        *(differences(own.get(key), other.get(key), f"{place}.{key}".strip(".")) for key in {*own, *other})
    )


@pytest.mark.parametrize(
    ("method", "file", "more"),
    [
        ("retinanet_quadmamba-tiny_fpn", "retinanet/retinanet_r50_fpn_1x_coco.py", {"neck.start_level"}),
        (
            "fcos_quadmamba-tiny_fpn",
            "fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py",
            # Images are scaled as for the other detectors.
            {"neck.start_level", "data_preprocessor.mean", "data_preprocessor.std", "data_preprocessor.bgr_to_rgb"},
        ),
        ("dino_quadmamba-tiny", "dino/dino-4scale_r50_8xb2-12e_coco.py", {"data_preprocessor.pad_size_divisor"}),
    ],
)
def test_models_are_mmdets_but_for_the_backbone(method, file, more):
    from mmengine.hub import get_config

    own = load_config(CONFIGS / "quadmamba" / f"{method}_8xb2-1x_coco.py").model.to_dict()
    found = differences(own, get_config(f"mmdet::{file}").model.to_dict())
    found = {place for place in found - {"_scope_"} if not place.startswith("backbone.")}
    assert found == {"data_preprocessor.type", "neck.in_channels", *more}


# --- What they learn and find


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    """Write blobs whose annotations have no key for masks."""
    root = tmp_path_factory.mktemp("boxes")
    blobs.write(root)
    for split in ("train", "val"):
        content = json.loads((root / f"{split}.json").read_text())
        for annotation in content["annotations"]:
            del annotation["segmentation"]
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize(("family", "method"), CASES)
def test_trains_resumes_tests_and_predicts(family, method, boxes, tmp_path):
    every = ["default_hooks.checkpoint.by_epoch=False", "default_hooks.checkpoint.interval=1"]
    whole = run.train(configure(family, method, boxes, tmp_path / "whole", *every))
    losses = [point["loss"] for point in whole.curves["train"]]
    assert len(losses) == 4
    assert np.isfinite(losses).all()
    assert 0 <= whole.last("coco/bbox_mAP") <= 1
    rest = run.train(configure(family, method, boxes, tmp_path / "rest"), resume=tmp_path / "whole" / "iter_2.pth")
    assert [point["loss"] for point in rest.curves["train"]] == losses[2:]
    assert rest.curves["val"] == whole.curves["val"]
    # The test and the objects that it writes are those of the last validation.
    cfg = configure(family, method, boxes, tmp_path / "test")
    metrics = run.test(cfg, tmp_path / "whole" / "iter_4.pth", tmp_path / "objects.json")
    assert metrics["coco/bbox_mAP"] == whole.last("coco/bbox_mAP")
    objects = json.loads((tmp_path / "objects.json").read_text())
    assert objects
    assert not any("segmentation" in item for item in objects)
    done = infer(Predictor(cfg, tmp_path / "whole" / "iter_4.pth", "cpu", 0.0), boxes / "val", tmp_path / "out")
    found = [item for prediction in done.predictions.values() for item in prediction["objects"]]
    assert len(found) == len(objects)
    assert set(found[0]) == {"class", "score", "box"}
    assert len(list((tmp_path / "out").glob("*.png"))) == 4
