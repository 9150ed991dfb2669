"""Tests of tools/infer.py and tools/analysis for all three tasks, and of the inferencers of mmdet and mmseg."""

import json
import re

import numpy as np
import pytest
import torch
from command_line import CONFIGS, error_of, run
from mmengine.registry import MODELS, DefaultScope
from PIL import Image
from pycocotools import mask as codec

from ssm_core import _ext
from ssm_train.apis.infer import inferencer_config
from ssm_train.runtime.config import load_config

pytestmark = [
    pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False"),
    pytest.mark.filterwarnings("ignore:.*faster_coco_eval"),
]
TASKS = {
    "classification": ("mambatree/mambatree-nano_digits.py", [str(n) for n in range(10)]),
    "detection": ("quadmamba/mask-rcnn_quadmamba-nano_nuclei-128x128.py", ["nucleus"]),
    "segmentation": ("mambatree/upernet_mambatree-nano_nuclei-128x128.py", ["background", "nucleus", "boundary"]),
}


@pytest.fixture(scope="module", params=TASKS)
def task(request, tmp_path_factory):
    """Return the task's name, and the config, the classes and the checkpoint of a model that was never trained."""
    name, classes = TASKS[request.param]
    cfg = load_config(CONFIGS / name)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    path = tmp_path_factory.mktemp(request.param) / "model.pth"
    meta = {"dataset_meta": {"classes": classes, "palette": [(30 * i, 200, 90) for i in range(len(classes))]}}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, path)
    return request.param, CONFIGS / name, classes, path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Write images of three sizes and a damaged one. One image is in a sub-folder, and two have the same stem."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "sub").mkdir()
    draw = np.random.RandomState(0)
    for name, size in (("a.png", (70, 90)), ("a.jpg", (64, 64)), ("sub/b.png", (66, 65))):
        Image.fromarray(draw.randint(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "bad.jpg").write_bytes((folder / "a.jpg").read_bytes()[:500])
    return folder


def test_infer_a_folder(task, images, tmp_path, capsys):
    kind, config, classes, checkpoint = task
    options = ["--min-score", 0.02] if kind == "detection" else []
    assert run("infer", config, checkpoint, images, "--out", tmp_path, "--device", "cpu", *options) == 0
    printed = capsys.readouterr().out
    assert "skipped: cannot read the image" in printed
    assert f"3 images, 1 unreadable, in {tmp_path}" in printed
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    assert set(predictions) == {"a.png", "a.jpg", "sub/b.png"}
    pictures = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    assert {"a.png.png", "a.jpg.png", "sub/b.png"} <= pictures
    prediction = predictions["a.png"]
    if kind == "classification":
        assert len(prediction["classes"]) == 5
        assert set(prediction["classes"]) <= set(classes)
        assert prediction["scores"] == sorted(prediction["scores"], reverse=True)
    elif kind == "detection":
        assert prediction["objects"]
        for found in prediction["objects"]:
            x0, y0, x1, y1 = found["box"]
            assert 0 <= x0 <= x1 <= 90
            assert 0 <= y0 <= y1 <= 70
            assert (found["class"], found["score"] >= 0.02) == ("nucleus", True)
            rows, columns = np.nonzero(codec.decode(found["mask"]))
            if rows.size:  # a mask does not leave its box
                assert x0 - 1 <= columns.min() <= columns.max() <= x1 + 1
                assert y0 - 1 <= rows.min() <= rows.max() <= y1 + 1
        assert {tuple(found["mask"]["size"]) for found in prediction["objects"]} == {(70, 90)}
    else:
        labels = np.array(Image.open(tmp_path / "a.png_labels.png"))
        assert labels.shape == (70, 90)
        shares = {name: round((labels == i).mean().item(), 5) for i, name in enumerate(classes) if (labels == i).any()}
        assert prediction["shares"] == pytest.approx(shares, abs=2e-5)
    if kind != "classification":
        width, height = Image.open(tmp_path / "a.png.png").size
        assert (width, height >= 560) == (720, True), "eight times as large, with room for a legend"


def test_infer_says_how_many_images_have_no_object(task, images, tmp_path, capsys):
    """The score that it names finds the object that has it."""
    kind, config, _, checkpoint = task
    arguments = (config, checkpoint, images / "a.png", "--device", "cpu", "--out")

    def line_of(name, *options):
        assert run("infer", *arguments, tmp_path / name, *options) == 0
        return capsys.readouterr().out.splitlines()[-1]

    line = line_of("one", "--min-score", 0.99)
    if kind != "detection":
        assert line == f"1 images, in {tmp_path / 'one'}"
        return
    found = re.fullmatch(
        rf"1 images, in {tmp_path / 'one'}; 1 without an object of score ≥ 0\.99 "
        r"\(the highest is (0\.\d+): --min-score\)",
        line,
    )
    assert found, line
    assert json.loads((tmp_path / "one" / "predictions.json").read_text())["a.png"]["objects"] == []
    assert line_of("two", "--min-score", found[1]) == f"1 images, in {tmp_path / 'two'}"
    (best, *_) = json.loads((tmp_path / "two" / "predictions.json").read_text())["a.png"]["objects"]
    assert best["score"] == pytest.approx(float(found[1]), rel=0.01)
    nothing = line_of("three", "--cfg-options", "model.test_cfg.rcnn.score_thr=0.99")
    assert nothing.endswith("; 1 without an object of score ≥ 0.3 (there is none at all: --min-score)")


def test_infer_errors(task, images, tmp_path, capsys):
    kind, config, _, checkpoint = task
    arguments = ("--out", tmp_path, "--device", "cpu")
    line = error_of(capsys, "infer", config, checkpoint, images / "bad.jpg", *arguments)
    assert f"cannot read the image {images / 'bad.jpg'}" in line
    assert "there is no image" in error_of(capsys, "infer", config, checkpoint, images / "none", *arguments)
    if kind == "segmentation":  # the other tasks scale or pad images to sizes that the network takes
        Image.new("RGB", (200, 2)).save(tmp_path / "narrow.png")
        line = error_of(capsys, "infer", config, checkpoint, tmp_path / "narrow.png", *arguments)
        assert f"cannot use the image {tmp_path / 'narrow.png'}: MambaTreeV takes images" in line
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    state.pop(next(name for name in state if name.startswith("backbone.")))
    torch.save({"state_dict": state}, tmp_path / "other.pth")
    line = error_of(capsys, "infer", config, tmp_path / "other.pth", images / "a.png", *arguments)
    assert "1 tensors differ, the first: backbone." in line


def test_the_inferencers_of_mmdet_and_mmseg(task, images, tmp_path):
    """The inferencers start from a config, as the README says."""
    kind, config, classes, checkpoint = task
    if kind == "classification":
        return
    if kind == "detection":
        from mmdet.apis import DetInferencer

        inferencer = DetInferencer(inferencer_config(config), str(checkpoint), device="cpu", show_progress=False)
        result = inferencer(str(images / "a.png"), out_dir=str(tmp_path), pred_score_thr=0.0)
        assert set(result["predictions"][0]["labels"]) <= {0}
    else:
        from mmseg.apis import MMSegInferencer

        inferencer = MMSegInferencer(inferencer_config(config), str(checkpoint), device="cpu", show_progress=False)
        result = inferencer(str(images / "a.png"), out_dir=str(tmp_path))
        assert result["predictions"].shape == (70, 90)
    assert list(inferencer.model.dataset_meta["classes"]) == classes
    assert list((tmp_path / "vis").iterdir())


def test_cost(task, capsys):
    kind, config, _, _ = task
    timing = ("--throughput", 2, "--batches", 1, "--device", "cpu")
    assert run("analysis/cost", config, "--size", 64, 64, *timing) == 0
    printed = capsys.readouterr().out
    for words in (
        "parameters",
        "GFLOPs for one image of 64 × 64",
        "in scans",
        "images a second in batches of 2 on cpu",
        "MiB kept of each image for the backward pass, in torch.float32",
    ):
        assert words in printed
    narrow = "dims=(16,16,16,16)" if kind == "classification" else "mlp_ratio=1.0"
    assert run("analysis/cost", config, "--size", 64, 64, "--cfg-options", f"model.backbone.{narrow}") == 0
    assert printed.splitlines()[0] != capsys.readouterr().out.splitlines()[0]


def test_cost_of_timms_models(capsys):
    """The names of timm include our models. A ResNet's activations take less memory in bfloat16."""
    kept = []
    for name, more in (("resnet18", ()), ("resnet18", ("--amp",)), ("quadmamba_lite", ())):
        assert run("analysis/cost", name, "--size", 64, 64, *more) == 0
        kept.append(float(capsys.readouterr().out.split("activations ")[1].split()[0]))
    assert kept[1] < 0.75 * kept[0]
    assert "no model 'resnet188' in timm (did you mean 'resnet18'?)" in error_of(capsys, "analysis/cost", "resnet188")
    assert "--size takes a height and a width" in error_of(capsys, "analysis/cost", "resnet18", "--size", 64)


def test_cost_needs_the_compiled_library(capsys, monkeypatch):
    monkeypatch.setattr(_ext, "load", lambda: False)
    for name in ("mambatree_tiny", CONFIGS / "quadmamba" / "quadmamba-nano_digits.py"):
        assert "are counted by the compiled library's operators: build it with `make setup` in a clone" in error_of(
            capsys, "analysis/cost", name, "--size", 64, 64
        )
    assert run("analysis/cost", "resnet18", "--size", 64, 64) == 0


def test_print_config(task, capsys):
    _, config, _, _ = task
    assert run("analysis/print_config", config, "--cfg-options", "model.backbone.mlp_ratio=3.0") == 0
    printed = {}
    exec(capsys.readouterr().out, printed)
    assert printed["model"]["backbone"]["mlp_ratio"] == 3.0
    assert "mlp_rato" in error_of(capsys, "analysis/print_config", config, "--cfg-options", "model.backbone.mlp_rato=3")


def test_browse_dataset(task, nuclei_root, tmp_path, capsys):
    kind, config, _, _ = task
    root = [f"train_dataloader.dataset.data_root={nuclei_root / 'nuclei'}"] if kind != "classification" else []
    options = ["--cfg-options", *root] if root else []
    for folder in ("one", "two"):
        assert run("analysis/browse_dataset", config, "--out", tmp_path / folder, "--count", 2, *options) == 0
    assert "2 pictures in" in capsys.readouterr().out
    pictures = sorted((tmp_path / "one").iterdir())
    numbers = [int(path.name[:4]) for path in pictures]
    assert numbers == [0, {"classification": 719, "detection": 17, "segmentation": 17}[kind]]  # the middle of all
    assert all(path.read_bytes() == (tmp_path / "two" / path.name).read_bytes() for path in pictures)
    line = error_of(
        capsys, "analysis/browse_dataset", config, "--out", tmp_path, "--cfg-options", "train_dataloader=None"
    )
    assert "the config has no train_dataloader" in line


def test_infer_without_a_test_set(task, images, tmp_path, capsys):
    _, config, _, checkpoint = task
    line = error_of(
        capsys, "infer", config, checkpoint, images, "--out", tmp_path, "--cfg-options", "test_dataloader=None"
    )
    assert "no test_dataloader" in line
