"""Every tool that reads an image reads it as training did: with its channels and its range of values."""

import numpy as np
import pytest
import torch

from quadtree_ssm import QuadMamba
from ssm_core.errors import DataError
from ssm_train.apis import Predictor
from ssm_train.apis.explore import Explorer, open_models
from ssm_train.apis.export import photo
from ssm_train.apis.open_model import open_model
from ssm_train.apis.visualize import View, draw_quadtrees, draw_receptive_fields
from ssm_train.data.normalization import of_config
from tree_ssm import MambaTreeV

CHANNELS = 6
RANGE = (-100, 900)
SIZES = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8), "num_classes": 3, "in_chans": CHANNELS}
TRANSFORM = {"type": "TestTransform", "size": 64, "crop_ratio": 1.0, "mean": [0.2] * CHANNELS, "std": [0.5] * CHANNELS}


@pytest.fixture(scope="module")
def values():
    return np.random.RandomState(0).randint(-200, 1000, (64, 64, CHANNELS)).astype(np.int16)


@pytest.fixture(scope="module")
def files(tmp_path_factory, values):
    """Write an image of six channels with a sign, and a classifier of each family whose checkpoint says the range."""
    folder = tmp_path_factory.mktemp("files")
    np.save(folder / "bands.npy", values)
    for kind in (QuadMamba, MambaTreeV):
        torch.manual_seed(0)
        name = f"{kind.__module__.split('.')[0]}.{kind.__name__}"
        meta = {"model": {"type": "ImageClassifier", "backbone": {"type": name, **SIZES}}}
        meta |= {"test_transform": TRANSFORM, "value_range": list(RANGE), "dataset_meta": {"classes": ["a", "b", "c"]}}
        state = {f"backbone.{key}": value for key, value in kind(**SIZES).state_dict().items()}
        torch.save({"state_dict": state, "meta": meta}, folder / f"{kind.__name__}.pth")
    return folder


@pytest.fixture(scope="module")
def inputs(values):
    """What the network has to be given."""
    levels = (values.astype(np.float64).clip(*RANGE) - RANGE[0]) / (RANGE[1] - RANGE[0])
    return torch.from_numpy((levels - 0.2) / 0.5).float().permute(2, 0, 1)[None]


def test_prediction_and_export(files, inputs):
    opened = open_model(str(files / "QuadMamba.pth"))
    torch.testing.assert_close(photo(files / "bands.npy", opened.normalization), inputs, atol=1e-5, rtol=0)
    predict = Predictor(files / "QuadMamba.pth", device="cpu")
    found = predict(files / "bands.npy")["scores"]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), opened.network(inputs).softmax(1)[0], atol=1e-5, rtol=1e-4)


def test_pictures_of_scans_and_fields(files):
    model = str(files / "QuadMamba.pth")
    said = []
    draw_quadtrees(View(model, files / "bands.npy"), say=said.append)
    assert said == ["QuadMamba, QuadMamba.pth; image of 64 × 64"]
    draw_receptive_fields([model], files, side=64, say=said.append)
    with pytest.raises(DataError, match=r"bands\.npy: its values, of type int16, go from -"):
        photo(files / "bands.npy", open_model(model).normalization._replace(value_range=None))


def test_the_page_of_photos(files, inputs):
    """Models with random weights, of both families, take the same images."""
    explorer = Explorer(open_models([str(files / "QuadMamba.pth")]), max_megapixels=1, side=64)
    seen = []
    for opened in explorer.models:
        opened.network.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].clone()))
    looked = explorer.look(files / "bands.npy")
    assert len(seen) == 3
    for images in seen:
        torch.testing.assert_close(images, inputs, atol=1e-5, rtol=0)
    assert {one.image.shape[2] for one in looked.seen.values()} == {3}, "pictures show three channels"
    assert looked.shown.shape[2] == 3


def test_configs_say_the_range_in_the_dataset_or_in_its_pipeline():
    model = {"backbone": {"in_chans": 1}, "data_preprocessor": {"mean": [1.0], "std": [2.0]}}
    step = {"type": "ssm_train.LoadImage", "channels": 1, "value_range": (0, 4095)}
    for dataset in (
        {"transform": {}, "value_range": (0, 4095)},
        {"pipeline": [step, {"type": "PackSegInputs"}]},
        {"type": "RepeatDataset", "dataset": {"pipeline": [step]}},
    ):
        assert of_config({"model": model, "test_dataloader": {"dataset": dataset}}).value_range == (0, 4095)
    assert of_config({"model": model, "test_dataloader": {"dataset": {"transform": {}}}}).value_range is None
