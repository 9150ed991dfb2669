"""Every task trains, validates, draws and predicts on images of six channels, in files of NumPy."""

import io
import itertools
import json
import logging

import numpy as np
import pytest
import timm
import torch
from command_line import CONFIGS
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, DefaultScope
from PIL import Image
from small_tasks import TASKS
from timm.models import adapt_input_conv

from ssm_core.errors import CheckpointError, ConfigError
from ssm_core.weights import adapt_channels, adapt_input, read_file
from ssm_train.apis import train as run
from ssm_train.apis.browse import browse
from ssm_train.apis.infer import infer
from ssm_train.apis.predictor import Predictor
from ssm_train.runtime.config import load_config
from ssm_train.tasks import image_task_of
from ssm_train.tasks.classification.timm_model import timm_model
from ssm_train.tasks.detection import AnyDetDataPreprocessor
from ssm_train.tasks.segmentation import StackedSegDataPreProcessor

CHANNELS, BANDS = 6, (5, 3, 1)
NUMBER = itertools.count()  # mmengine shares loggers between runs of the same name and second
SHORT = ["visualizer.tensorboard=False", "default_hooks.curves.plot=False", "default_hooks.pictures.count=1"]
pytestmark = pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False", "ignore:For binary segmentation")


@pytest.mark.parametrize("task", TASKS)
def test_six_channels_from_files_to_pictures(tmp_path, task):
    small = TASKS[task](tmp_path / "data", CHANNELS)
    seen = [f"visualizer.bands={list(BANDS)}", *(["visualizer.alpha=0.0"] * (task == "segmentation"))]
    cfg = load_config(small.config, [*small.options, *SHORT, *seen, f"experiment_name={next(NUMBER)}"])
    object.__setattr__(cfg, "_format_python_code", False)  # formatting would take a second
    cfg.work_dir = str(tmp_path / "run")
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        result = run.train(cfg)
        assert len(result.curves["val"]) == 1
        assert list((tmp_path / "run").glob("*/vis_data/vis_image/prediction_0_*.png")), "validation is shown"
        for split in ("train", "val"):
            assert browse(cfg, split, tmp_path / split, count=2) != []
        # No object is as sure, and so no box hides the image.
        predictor = Predictor(cfg, tmp_path / "run" / small.checkpoint, "cpu", 1.0)
        found = infer(predictor, small.images, tmp_path / "out", lambda text: None)
    assert found.unreadable == 0
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(predictions) == len(list(small.images.rglob("*.npy")))
    for name in predictions:
        drawn = np.asarray(Image.open((tmp_path / "out" / name).with_suffix(".png")))
        expected = Image.fromarray(np.load(small.images / name)[..., BANDS]).resize(drawn.shape[1::-1])
        # Classes are written into the upper part.
        rows = slice(150 if task == "classification" else 0, None)
        assert np.array_equal(drawn[rows], np.asarray(expected)[rows])
    if task == "segmentation":
        first = Image.fromarray(np.load(small.images / "0.npy")[..., BANDS])
        assert np.array_equal(Image.open(tmp_path / "val" / "0000.png"), first.resize((512, 512)))


class LoadBands:
    """Reads an image in a way of its own, as a user may write it: to values that go from -700 on."""

    def __call__(self, results):
        img = np.load(results["img_path"]).astype(np.float32) * 20 - 700
        return {**results, "img": img, "img_shape": img.shape[:2], "ori_shape": img.shape[:2]}


def segmenting(folder, channels):
    """Return a small task with a config that trains on images of so many channels."""
    small = TASKS["segmentation"](folder / "data", channels)
    options = [*small.options, *SHORT[:2], f"visualizer.bands={list(BANDS)}", "visualizer.alpha=0.0"]
    cfg = load_config(small.config, [*options, f"experiment_name={next(NUMBER)}"])
    object.__setattr__(cfg, "_format_python_code", False)
    cfg.work_dir = str(folder / "run")
    return small, cfg


def test_a_reader_of_ones_own(tmp_path):
    small, cfg = segmenting(tmp_path, CHANNELS)
    norm = dict(type="mmcv.transforms.Normalize", mean=[1000.0] * CHANNELS, std=[900.0] * CHANNELS, to_rgb=False)
    loading = dict(type="test_channels.LoadBands"), dict(type="ssm_train.LoadLabelMap")
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.pipeline = [*loading, norm, dict(type="PackSegInputs")]
    cfg.model.data_preprocessor.update(mean=None, std=None)
    with DefaultScope.overwrite_default_scope("mmseg"):
        run.train(cfg)
        browse(cfg, "val", tmp_path / "seen", count=1)
        infer(Predictor(cfg, tmp_path / "run" / small.checkpoint, "cpu"), small.images, tmp_path / "out", print)
    values = np.load(small.images / "0.npy").astype(float)
    expected = ((values - values.min()) / (values.max() - values.min()) * 256).clip(0, 255)[..., BANDS]
    enlarged = Image.fromarray(np.floor(expected).astype(np.uint8)).resize((512, 512))
    for path in (tmp_path / "out" / "0.png", tmp_path / "seen" / "0000.png"):
        # Enlarging makes a rounding of one into one of two.
        np.testing.assert_allclose(np.asarray(Image.open(path), float), np.asarray(enlarged, float), atol=2)
    shown = [path.name for path in (tmp_path / "run").glob("*/vis_data/vis_image/*_0_*.png")]
    assert sorted(shown) == ["prediction_0_2.png", "scans_0_2.png"]


def test_a_picture_that_cannot_be_made_does_not_end_a_training(tmp_path):
    """The test data do not say the range of the values, and pictures are made of the images of the test data."""
    small, cfg = segmenting(tmp_path, CHANNELS)
    for path in small.images.parent.rglob("*.npy"):
        np.save(path, np.load(path) * np.float32(10))
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.pipeline[0].value_range = (0, 2550)
    cfg.default_hooks.pictures.update(count=2, blocks=0)
    with DefaultScope.overwrite_default_scope("mmseg"):
        result = run.train(cfg)
    assert len(result.curves["val"]) == 1
    log = next((tmp_path / "run").glob("*/*.log")).read_text()
    assert log.count("there is no picture of a validation image: cannot read the image ") == 1


def test_channels_that_are_not_there_end_a_run_before_it_begins(tmp_path):
    _, cfg = segmenting(tmp_path, CHANNELS)
    cfg.visualizer.bands = [5, 6, 1]
    with (
        DefaultScope.overwrite_default_scope("mmseg"),
        pytest.raises(ConfigError, match=r"visualizer.bands is three channels from 0 to 5, .* not \[5, 6, 1\]"),
    ):
        run.train(cfg)
    assert not list((tmp_path / "run").glob("*.pth"))


def test_the_channels_of_mmdets_backbones():
    cfg = load_config(CONFIGS / "resnet" / "mask-rcnn_resnet18_composite-256x256.py", ["visualizer.bands=[3,4,5]"])
    with pytest.raises(ConfigError, match="three channels from 0 to 2"):
        _ = image_task_of(cfg).bands
    cfg.model.backbone.in_channels = CHANNELS
    assert image_task_of(cfg).bands == (3, 4, 5)
    assert image_task_of(cfg).example_input((64, 64), 1).shape == (1, CHANNELS, 64, 64)


@pytest.mark.parametrize("ours", [AnyDetDataPreprocessor, StackedSegDataPreProcessor])
def test_preprocessors_take_any_number_of_means(ours):
    three = {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0], "bgr_to_rgb": True}
    theirs = ours.__mro__[2]  # mmdet's or mmseg's, behind the base class for any number of channels
    assert theirs.__module__.startswith("mm")
    data = {"inputs": [torch.rand(3, 8, 8)], "data_samples": None}
    expected, found = (kind(**three)(dict(data), False)["inputs"] for kind in (theirs, ours))
    assert torch.equal(torch.stack(list(expected)), torch.stack(list(found)))
    many = ours(mean=[float(n) for n in range(6)], std=[2.0] * 6)
    found = many({"inputs": [torch.ones(6, 8, 8)], "data_samples": None}, False)["inputs"]
    assert torch.equal(torch.stack(list(found))[0, :, 0, 0], (1 - torch.arange(6)) / 2)
    with pytest.raises(ConfigError, match="2 means and 1 standard deviations"):
        ours(mean=[0.0, 1.0], std=[1.0])


# --- Weights for colours in models of other channels


@pytest.mark.parametrize(("task", "channels"), [("classification", 1), ("segmentation", 4), ("detection", 13)])
def test_a_training_starts_from_weights_for_colours(tmp_path, task, channels):
    small = TASKS[task](tmp_path / "data", channels)
    colours = next(option for option in small.options if "in_chans" in option).rpartition("=")[0] + "=3"
    torch.manual_seed(3)
    for options in ([colours], []):
        cfg = load_config(small.config, [*small.options, *options])
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            state = MODELS.build(cfg.model).state_dict()
        if options:
            torch.save({"state_dict": state}, tmp_path / "colours.pth")
            filters = state["backbone.stem.conv1.weight"]
            rest = state["backbone.stem.conv2.weight"]
    start = [
        f"load_from={tmp_path / 'colours.pth'}",
        "optim_wrapper.optimizer.lr=0.0",
        "default_hooks.pictures.count=0",
    ]
    cfg = load_config(small.config, [*small.options, *SHORT[:2], *start, f"experiment_name={next(NUMBER)}"])
    object.__setattr__(cfg, "_format_python_code", False)
    cfg.work_dir = str(tmp_path / "run")
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        run.train(cfg)
    trained = read_file(tmp_path / "run" / small.checkpoint)["state_dict"]
    expected = filters.sum(1, keepdim=True) if channels == 1 else filters[:, [c % 3 for c in range(channels)]]
    expected = expected * (1 if channels == 1 else 3 / channels)
    torch.testing.assert_close(trained["backbone.stem.conv1.weight"], expected)
    assert torch.equal(trained["backbone.stem.conv2.weight"], rest)
    log = next((tmp_path / "run").glob("*/*.log")).read_text()
    said = f"backbone.stem.conv1.weight takes 3 channels in the file and {channels} in the model: adapted as timm does"
    assert log.count(said) == 1


@pytest.fixture
def said():
    """What is logged."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield text
    logger.removeHandler(handler)


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 13])
def test_it_is_timms_adaptation(tmp_path, channels, said):
    source = timm.create_model("test_resnet", num_classes=5)
    torch.save(source.state_dict(), tmp_path / "colours.pth")
    overlay = {"file": str(tmp_path / "colours.pth"), "num_classes": 5}
    expected = timm.create_model(
        "test_resnet", pretrained=True, in_chans=channels, num_classes=5, pretrained_cfg_overlay=overlay
    ).state_dict()
    for count, (pretrained, options) in enumerate(
        ((True, {"pretrained_cfg_overlay": overlay}), (False, {"checkpoint_path": str(tmp_path / "colours.pth")})), 1
    ):
        found = timm_model("test_resnet", 5, channels, pretrained=pretrained, options=options).state_dict()
        assert sorted(expected) == sorted(found)
        for name, tensor in found.items():
            assert torch.equal(tensor, expected[name]), name
        assert [line.count("adapted") for line in said.getvalue().splitlines()] == [1] * count


@pytest.mark.parametrize("channels", [1, 4])
def test_init_cfg_of_mmdets_backbones(tmp_path, channels, said):
    source = timm.create_model("resnet18", num_classes=0)
    torch.save(source.state_dict(), tmp_path / "colours.pth")
    backbone = dict(type="ResNet", depth=18, in_channels=channels, num_stages=4, style="pytorch", norm_eval=False)
    backbone["init_cfg"] = dict(type="Pretrained", checkpoint=str(tmp_path / "colours.pth"))
    expected = timm.create_model(
        "resnet18",
        pretrained=True,
        in_chans=channels,
        num_classes=0,
        pretrained_cfg_overlay={"file": str(tmp_path / "colours.pth"), "num_classes": 0},
    )
    with DefaultScope.overwrite_default_scope("mmdet"):
        model, again = MODELS.build(backbone), MODELS.build(backbone)
    model.init_weights()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected.state_dict()[name]), name
    line = f"conv1.weight takes 3 channels in the file and {channels} in the model: adapted as timm does"
    assert line in said.getvalue()
    torch.save({f"backbone.{name}": tensor for name, tensor in source.state_dict().items()}, tmp_path / "colours.pth")
    with pytest.raises(CheckpointError, match=r"does not fit ResNet: \d+ tensors differ"):
        again.init_weights()


@pytest.mark.recent  # an older timm adapts weights for colours alone
@pytest.mark.parametrize("there", [1, 2, 3, 5])
@pytest.mark.parametrize("here", [1, 3, 4, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_any_number_of_channels_is_adapted_to_any_other_as_timm_does_it(here, there, dtype):
    weight = torch.randn(8, there, 3, 3, dtype=dtype)
    assert torch.equal(adapt_input(weight, here), adapt_input_conv(here, weight, there))
    if there != here:
        found, said = adapt_channels({"stem.weight": torch.zeros(8, here, 3, 3)}, {"stem.weight": weight})
        assert torch.equal(found["stem.weight"], adapt_input_conv(here, weight, there))
        assert said == f"stem.weight takes {there} channels in the file and {here} in the model: adapted as timm does"


def test_what_is_not_adapted():
    model = {"stem.weight": torch.zeros(8, 4, 3, 3), "head.weight": torch.zeros(2, 8)}
    for shape in ((8, 4, 3, 3), (8, 3, 5, 5), (6, 3, 3, 3)):
        state = {"stem.weight": torch.ones(shape), "head.weight": torch.ones(2, 8)}
        found, said = adapt_channels(model, state)
        assert said == ""
        assert all(found[name] is state[name] for name in state)
    assert adapt_channels({}, {"a": torch.ones(1)})[1] == ""
