"""The predictor from a checkpoint alone, which says what network it is of and how images are prepared."""

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

from ssm_core.errors import CheckpointError, ConfigError, DataError
from ssm_train.apis import Predictor


@pytest.fixture
def classifier(tmp_path):
    backbone = {"type": "quadtree_ssm.QuadMamba", "depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8], "num_classes": 3}
    backbone["in_chans"] = 1
    torch.manual_seed(1)
    with DefaultScope.overwrite_default_scope("ssm_train"):
        model = MODELS.build({"type": "ImageClassifier", "backbone": backbone})
    transform = {"type": "TestTransform", "size": 32, "crop_ratio": 1.0, "mean": (0.3,), "std": (0.5,)}
    meta = {"model": {"type": "ImageClassifier", "backbone": backbone}, "test_transform": transform}
    meta |= {"dataset_meta": {"classes": ["a", "b", "c"]}, "value_range": [0, 4095]}
    path = tmp_path / "epoch_1.pth"
    content = {"state_dict": model.state_dict(), "meta": meta}
    torch.save(content, path)
    return path, content, model.eval()


def test_what_is_no_image_or_has_none_takes_its_turn(classifier, tmp_path):
    """The images beside it are not lost, and the function gets every error."""
    predict, errors = Predictor(classifier[0], device="cpu", batch_size=4), []
    (tmp_path / "empty").mkdir()
    image = np.random.RandomState(0).randint(0, 4096, (32, 32)).astype(np.uint16)
    found = list(predict.each([image, tmp_path / "empty", None, "", image], errors.append))
    assert found[1:4] == [None] * 3
    for prediction in (found[0], found[4]):
        np.testing.assert_allclose(prediction["scores"], predict(image)["scores"], rtol=1e-5)
    says = [str(error) for error in errors]
    assert says[0].startswith(f"there is no image {tmp_path / 'empty'}, nor a folder of that name with images")
    assert says[1] == "image number 3 is a NoneType: images are paths, images of Pillow's or arrays of NumPy"
    assert says[2] == "the path of an image is empty: name a file or a folder"


def test_calls_with_no_images(classifier, tmp_path, monkeypatch):
    predict = Predictor(classifier[0], device="cpu")
    with (tmp_path / "closed.png").open("wb") as closed:
        pass
    for source in (None, 3, closed):
        name = type(source).__name__
        with pytest.raises(DataError, match=rf"^images are paths, .* of NumPy, or a list of them, and no {name}$"):
            predict(source)
    Image.new("L", (32, 32)).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)  # an empty path is not this folder
    with pytest.raises(DataError, match=r"^the path of an image is empty"):
        predict("")
    with pytest.raises(DataError, match="cannot read the image aaa"):
        predict("a" * 5000)


@pytest.mark.parametrize("score", [2, -0.1, float("nan"), "0.5", None])
def test_scores_that_none_has(classifier, score):
    with pytest.raises(ConfigError, match=rf"^min_score is a number from 0 to 1, not {score!r}$"):
        Predictor(classifier[0], device="cpu", min_score=score)


def test_a_checkpoint_alone(classifier):
    path, _, model = classifier
    image = np.random.RandomState(0).randint(0, 4096, (32, 32)).astype(np.uint16)
    found = Predictor(path, device="cpu")(image)
    pixels = torch.from_numpy(np.floor(image / 4095 * 256).clip(0, 255) / 255).float()
    with torch.no_grad():
        expected = model((pixels[None, None] - 0.3) / 0.5).softmax(1)[0]
    torch.testing.assert_close(torch.from_numpy(found["scores"]), expected)
    assert found["name"] == "abc"[expected.argmax()]


def test_a_checkpoint_alone_of_several_labels(classifier):
    path, content, model = classifier
    content["meta"]["model"]["multi_label"] = True
    torch.save(content, path)
    image = np.zeros((32, 32), np.uint16)
    found = Predictor(str(path), device="cpu")(image)
    with torch.no_grad():
        expected = model(torch.full((1, 1, 32, 32), -0.3 / 0.5)).sigmoid()[0].numpy()
    np.testing.assert_allclose(found["scores"], expected, rtol=1e-5)
    assert found["labels"].tolist() == np.flatnonzero(expected >= 0.5).tolist()
    assert found["names"] == ["abc"[number] for number in found["labels"]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"test_transform": {"type": "os.system", "size": 32}}, "does not say how a classifier prepares its images"),
        ({"test_transform": None}, "does not say how a classifier prepares its images"),
        ({"model": {"type": "MaskRCNN", "backbone": None}}, "does not say"),
    ],
)
def test_what_a_checkpoint_must_say(classifier, change, says):
    path, content, _ = classifier
    if "model" in change:
        change["model"]["backbone"] = content["meta"]["model"]["backbone"]
    torch.save({**content, "meta": {**content["meta"], **change}}, path)
    with pytest.raises(CheckpointError, match=says):
        Predictor(path)


def test_a_described_network_that_does_not_fit(classifier):
    path, content, _ = classifier
    content["meta"]["model"]["backbone"]["dims"] = [8, 8, 8, 1 << 20]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="does not fit its QuadMamba"):
        Predictor(path)
