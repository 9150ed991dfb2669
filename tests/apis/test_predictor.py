"""The predictor gives what tree-ssm test writes, for files and for arrays, and leaves no trace."""

import json
import logging
import os
import random
import re
import threading

import numpy as np
import pytest
import torch
from command_line import CONFIGS, ROOT, run
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope
from PIL import Image
from pycocotools import mask as codec
from small_tasks import TASKS

from ssm_core.errors import CheckpointError, ConfigError, DataError
from ssm_train.apis import Predictor
from ssm_train.apis.prediction import prediction_config
from ssm_train.apis.train import test as evaluate
from ssm_train.data.images import find_images
from ssm_train.runtime.config import load_config

# The largest difference between batches of other sizes, over the largest value: sums of float32 in another order.
TOLERANCE = 1e-4
pytestmark = [
    pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False"),
    pytest.mark.filterwarnings("ignore:.*faster_coco_eval"),
]


class Made:
    """A model that was never trained, its config, and a folder of images with annotations."""

    def __init__(self, kind, folder):
        self.kind = kind
        self.small = TASKS[kind](folder / "data")
        self.images = find_images(self.small.images)
        options = [*self.small.options, "visualizer.tensorboard=False", "default_hooks.class_report.picture=False"]
        if kind == "detection":  # masks of many objects take time
            options.append("model.test_cfg.rcnn.max_per_img=5")
        if kind == "segmentation":  # another than that at the top of the config, which mmseg's have
            options.append("model.data_preprocessor.mean=[30.0,40.0,50.0]")
        self.options = options
        self.cfg = load_config(self.small.config, options)
        object.__setattr__(self.cfg, "_format_python_code", False)  # formatting would take a second
        torch.manual_seed(1)
        with DefaultScope.overwrite_default_scope(self.cfg.default_scope):
            model = MODELS.build(self.cfg.model)
        if kind == "detection":  # a head that has learnt nothing is sure of nothing
            model.roi_head.bbox_head.fc_cls.weight.data *= 30
        self.checkpoint = folder / "model.pth"
        classes = {"classification": ["a", "b"], "segmentation": ["background", "nucleus", "boundary"]}
        meta = {"dataset_meta": {"classes": classes.get(kind, ["disc", "box"])}}
        torch.save({"state_dict": model.state_dict(), "meta": meta}, self.checkpoint)

    def predictor(self, **options):
        return Predictor(self.cfg, self.checkpoint, "cpu", min_score=0.0, **options)


@pytest.fixture(scope="module", params=TASKS)
def made(request, tmp_path_factory):
    return Made(request.param, tmp_path_factory.mktemp(request.param))


def assert_same(one, other, exactly=True):
    """Compare two predictions; with another order of sums, objects and pixels near a threshold may differ."""
    assert one.keys() - {"path"} == other.keys() - {"path"}
    for key in one.keys() - {"path"}:
        if exactly or not isinstance(one[key], np.ndarray):
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)
        elif one[key].dtype.kind == "f":
            np.testing.assert_allclose(one[key], other[key], rtol=0, atol=TOLERANCE * max(one[key].max(initial=1), 1))
        else:
            assert (one[key] != other[key]).mean() < 1e-3, key


WAYS = {"whole": {}, "augmented": {"tta": True}, "tiled": {"tile": 48, "overlap": 16}}


@pytest.mark.parametrize("way", WAYS)
def test_results_are_those_of_the_test_tool(made, way, tmp_path):
    if made.kind == "classification" and way == "tiled":
        with pytest.raises(ConfigError, match=r"^tiles are for detectors and segmentors: leave out --tile$"):
            made.predictor(**WAYS[way])
        return
    out = tmp_path / {"classification": "scores.json", "detection": "objects.json", "segmentation": "labels"}[made.kind]
    made.cfg.work_dir = str(tmp_path / "run")
    evaluate(prediction_config(made.cfg, **WAYS[way]), made.checkpoint, out)
    found = {prediction["path"].name: prediction for prediction in made.predictor(**WAYS[way])(made.small.images)}
    if made.kind == "classification":
        rows = json.loads(out.read_text())["images"]
        assert len(rows) == 4
        found = {str(p["path"]): p for p in made.predictor(**WAYS[way])(made.small.images)}
        for row in rows:
            np.testing.assert_allclose(found[row["image"]]["scores"], row["scores"], rtol=1e-5)
            assert found[row["image"]]["name"] == row["predicted"]
    elif made.kind == "segmentation":
        assert {path.stem for path in made.images} == {path.stem for path in out.iterdir()}
        for path in out.iterdir():
            assert np.array_equal(np.asarray(Image.open(path)), found[path.name]["labels"])
    else:
        objects = json.loads(out.read_text())
        assert objects
        for number, name in ((10, "0.png"), (11, "1.png")):
            own, prediction = [o for o in objects if o["image_id"] == number], found[name]
            boxes = np.array([o["bbox"] for o in own])
            boxes[:, 2:] += boxes[:, :2]
            np.testing.assert_allclose(prediction["boxes"], boxes, rtol=1e-5, atol=1e-4)
            np.testing.assert_allclose(prediction["scores"], [o["score"] for o in own], rtol=1e-6)
            assert [3 * label + 1 for label in prediction["labels"]] == [o["category_id"] for o in own]
            if way == "tiled":
                assert prediction["run_lengths"] == [o["segmentation"] for o in own]
            else:
                masks = np.stack([codec.decode(o["segmentation"]) for o in own]).astype(bool)
                assert np.array_equal(prediction["masks"], masks)


@pytest.mark.parametrize("way", ["augmented", "tiled"])
def test_files_and_arrays_in_other_ways(made, way):
    if made.kind == "classification" and way == "tiled":
        return
    predict = made.predictor(batch_size=2, **WAYS[way])
    arrays = [np.asarray(Image.open(path)) for path in made.images]
    for one, other in zip(predict(made.small.images), predict(arrays), strict=True):
        assert_same(one, other)


def test_a_tile_as_large_as_the_image(made):
    if made.kind == "classification":
        return
    whole, tiled = made.predictor()(made.images[0]), made.predictor(tile=64)(made.images[0])
    if made.kind == "detection":
        tiled["masks"] = np.stack([codec.decode(mask) for mask in tiled.pop("run_lengths")]).astype(bool)
    assert_same(tiled, whole, exactly=False)


def test_probabilities_of_augmented_predictions(made):
    if made.kind != "segmentation":
        return
    found = made.predictor(tta=True, probabilities=True)(made.images[0])
    np.testing.assert_allclose(found["probabilities"].sum(0), 1, rtol=1e-5)
    assert (found["probabilities"].argmax(0) != found["labels"]).mean() < 1e-3
    alone = made.predictor(probabilities=True)(made.images[0])
    assert np.abs(found["probabilities"] - alone["probabilities"]).max() > 1e-3, "not those of the first version"
    with pytest.raises(ConfigError, match=r"^tiles keep no probabilities of pixels: leave out probabilities=True"):
        made.predictor(tile=48, probabilities=True)


def test_fields(made):
    prediction = made.predictor()(made.images[0])
    height, width = np.asarray(Image.open(made.images[0])).shape[:2]
    assert prediction["path"] == made.images[0]
    if made.kind == "classification":
        assert prediction["scores"].shape == (2,)
        assert prediction["scores"].sum() == pytest.approx(1)
        assert prediction["label"] == prediction["scores"].argmax()
        assert prediction["name"] == "ab"[prediction["label"]]
        with pytest.raises(ConfigError, match="probabilities of pixels are of segmentors"):
            made.predictor(probabilities=True)
    elif made.kind == "segmentation":
        assert (prediction["labels"].shape, prediction["labels"].dtype) == ((height, width), np.uint8)
        more = made.predictor(probabilities=True)(made.images[0])
        assert more["probabilities"].shape == (3, height, width)
        np.testing.assert_allclose(more["probabilities"].sum(0), 1, rtol=1e-5)
        assert np.array_equal(more["probabilities"].argmax(0), more["labels"])
    else:
        count = len(prediction["scores"])
        assert count > 0
        assert prediction["boxes"].shape == (count, 4)
        assert prediction["masks"].shape == (count, height, width)
        assert prediction["masks"].dtype == bool
        assert prediction["names"] == [["disc", "box"][label] for label in prediction["labels"]]
        few = Predictor(made.cfg, made.checkpoint, "cpu", min_score=float(prediction["scores"][0]))(made.images[0])
        assert 0 < len(few["scores"]) <= count
        assert few["scores"].min() >= prediction["scores"][0]


def test_files_images_and_arrays_give_the_same(made):
    predict = made.predictor(batch_size=1)
    expected = predict(made.small.images)
    assert [prediction["path"] for prediction in expected] == made.images
    pictures = [Image.open(path) for path in made.images]
    for sources in (
        [str(path) for path in made.images],
        pictures,
        iter(pictures),
        [np.asarray(picture) for picture in pictures],
        (np.asarray(picture).astype(np.uint16) * 257 for picture in pictures),
        [np.asarray(picture).astype(np.float32) / 255 for picture in pictures],
    ):
        found = predict(sources)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    assert_same(predict(pictures[0]), expected[0])
    assert_same(next(predict.each(iter(pictures))), expected[0])


def test_batches_of_images_of_several_sizes(made):
    draw = np.random.RandomState(0)
    sizes = [(64, 64), (80, 64), (64, 64), (100, 70)]
    images = [draw.randint(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    alone = made.predictor(batch_size=1)(images)
    for batch_size in (3, 100):
        for one, other in zip(made.predictor(batch_size=batch_size)(images), alone, strict=True):
            assert_same(one, other, exactly=False)


def test_a_bad_image_among_many(made, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG no more")
    Image.new("RGB", (64, 64)).save(tmp_path / "good.png")
    wrong = [tmp_path / "bad.png", np.zeros((64, 64, 7)), np.full((64, 64), -3.0), tmp_path / "no.png"]
    errors = []
    found = list(made.predictor(batch_size=3).each([*wrong, tmp_path / "good.png"], errors.append))
    assert found[:-1] == [None] * len(wrong)
    assert_same(found[-1], made.predictor()(tmp_path / "good.png"))
    says = [str(error) for error in errors]
    assert says[0].startswith(f"cannot read the image {tmp_path / 'bad.png'}: ")
    assert says[1] == "cannot read the image number 2: it has 7 channels, which are no colours"
    assert "number 3: its values, of type float64, go from -3 to -3: say which are black and white" in says[2]
    assert says[3] == f"cannot read the image {tmp_path / 'no.png'}: there is no such file"
    for source in ([*wrong], tmp_path / "bad.png"):
        with pytest.raises(DataError, match=r"bad\.png"):
            made.predictor()(source)
    with pytest.raises(DataError, match="image number 2 is a Tensor: images are paths, images of Pillow's or arrays"):
        made.predictor()([np.zeros((64, 64)), torch.zeros(3, 64, 64)])


def test_it_leaves_no_trace(made, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    def state():
        handlers = [logger.handlers[:] for logger in (logging.root, *logging.Logger.manager.loggerDict.values())
                    if isinstance(logger, logging.Logger)]  # fmt: skip
        scope = DefaultScope.get_current_instance()
        return {
            "environment": dict(os.environ),
            "handlers": handlers,
            "folder": sorted(tmp_path.rglob("*")),
            "random": (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()),
            "torch": (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()),
            "backends": (torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()),
            "scope": scope and scope.scope_name,
        }

    made.predictor()(made.images)  # imports libraries that set themselves up
    capfd.readouterr()
    before = state()
    picture = Image.open(made.images[0])
    array = np.asarray(picture).copy()
    made.predictor()([picture, array])
    assert state() == before
    assert np.array_equal(array, np.asarray(picture)), "inputs are not changed"
    assert capfd.readouterr() == ("", "")


def test_threads(made):
    predict = made.predictor()
    images = [np.random.RandomState(seed).randint(0, 256, (64, 64, 3), dtype=np.uint8) for seed in range(4)]
    alone = [predict(image) for image in images]
    found = [None] * len(images)

    def work(number):
        found[number] = [made.predictor()(images[number]) if number == 0 else predict(images[number])] * 2

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for both, expected in zip(found, alone, strict=True):
        for one in both:
            assert_same(one, expected)


def test_orders_and_arguments(made, tmp_path):
    with pytest.raises(ConfigError, match="there are no weights to predict with: name a checkpoint"):
        Predictor(made.cfg)
    with pytest.raises(ConfigError, match="batch_size is a number of images of 1 or more, not 0"):
        made.predictor(batch_size=0)
    with pytest.raises(ConfigError, match="is no device of this machine"):
        Predictor(made.cfg, made.checkpoint, "cuda:99")
    assert made.predictor().batch_size == made.cfg.test_dataloader.batch_size
    if made.kind != "classification":
        with pytest.raises(CheckpointError, match="does not say which QuadMamba or MambaTreeV"):
            Predictor(made.checkpoint)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="there is no image"):
        made.predictor()(tmp_path / "empty")


class LoadOwn:
    """A step as a user writes it, which reads files in a way of its own."""

    def __call__(self, results):
        image = np.asarray(Image.open(results["img_path"]))[..., ::-1]
        return {**results, "img": image, "img_shape": image.shape[:2], "ori_shape": image.shape[:2]}


@pytest.fixture
def own_step():
    TRANSFORMS.register_module(module=LoadOwn)
    yield
    del TRANSFORMS._module_dict["LoadOwn"]


@pytest.mark.usefixtures("own_step")
def test_a_step_of_ones_own_takes_files_alone(made):
    if made.kind == "classification":  # which has no steps
        return
    cfg = made.cfg.copy()
    cfg.test_dataloader.dataset.pipeline[0] = {"type": "mmengine.LoadOwn"}
    predict = Predictor(cfg, made.checkpoint, "cpu", min_score=0.0)
    assert_same(predict(made.images[0]), made.predictor()(made.images[0]))
    with pytest.raises(ConfigError, match=r"the config reads images by LoadOwn, which takes files alone: use ssm_tra"):
        predict(np.zeros((64, 64, 3), np.uint8))


def test_arrays_in_place_of_mmcvs_reading(made):
    if made.kind == "classification":
        return
    cfg = made.cfg.copy()
    cfg.test_dataloader.dataset.pipeline[0] = {"type": "LoadImageFromFile"}
    predict = Predictor(cfg, made.checkpoint, "cpu", min_score=0.0)
    for source in (made.images[0], Image.open(made.images[0])):
        assert_same(predict(source), made.predictor()(made.images[0]))


# --- The tool and the page


def test_the_page(tmp_path, monkeypatch, capsys):
    """The code of docs/python.md runs as it stands there."""
    cfg = load_config(CONFIGS / "quadmamba" / "quadmamba-nano_digits.py")
    with DefaultScope.overwrite_default_scope("ssm_train"):
        model = MODELS.build(cfg.model)
    folder = tmp_path / "work_dirs" / "quadmamba-nano_digits"
    folder.mkdir(parents=True)
    torch.save({"state_dict": model.state_dict(), "meta": {}}, folder / "epoch_25.pth")
    (tmp_path / "photos").mkdir()
    for name in "ab":
        Image.new("L", (20, 30), 40).save(tmp_path / "photos" / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    namespace = {}
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "python.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    for block in blocks:
        exec(block, namespace)
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith("photos/a.png ")
    assert "cannot read the image photos/none.png: there is no such file" in said
    assert len(list((tmp_path / "predictions").iterdir())) == 3


def test_the_tool_in_batches(made, tmp_path):
    arguments = (made.small.config, made.checkpoint, made.small.images)
    options = ("--device", "cpu", "--cfg-options", *made.options)
    found = []
    for batch_size in (1, 3):
        out = tmp_path / str(batch_size)
        assert run("infer", *arguments, "--out", out, "--batch-size", batch_size, *options) == 0
        found.append(json.loads((out / "predictions.json").read_text()))
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) == len(made.images)
