"""Tests that checkpoints of the first edition can be resumed, tested, opened and used.

``first_edition/`` holds a gzipped checkpoint of each family, which ``ssm_core.engine`` wrote at commit fd77d42. Each is
the state after two iterations of the family's digits config with the options below. Only the path of the last
checkpoint, which is part of the state, was shortened.
"""

import gzip
from pathlib import Path

import pytest
import runs
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import top_k_accuracy_score

from quadtree_ssm import QuadMamba
from ssm_core.weights import read_file
from ssm_train.apis import train
from ssm_train.apis.infer import infer
from ssm_train.apis.open_model import open_model
from ssm_train.apis.predictor import Predictor
from ssm_train.data.datasets.digits import Digits
from ssm_train.data.normalization import Normalization
from ssm_train.data.transforms import TestTransform
from ssm_train.runtime.config import load_config
from tree_ssm import MambaTreeV

CONFIGS = {"quadmamba": "quadmamba/quadmamba-nano_digits.py", "mambatree": "mambatree/mambatree-nano_digits.py"}
NETWORKS = {"quadmamba": QuadMamba, "mambatree": MambaTreeV}
OPTIONS = (
    "model.backbone.depths=(1,1)",
    "model.backbone.dims=(4,8)",
    "train_cfg.max_epochs=1",
    "train_dataloader.num_batch_per_epoch=4",
    "default_hooks.checkpoint.by_epoch=False",
    "default_hooks.checkpoint.interval=2",
    "default_hooks.checkpoint.save_best=None",
    *runs.EVERYTHING_RANDOM,
)
# MambaTree's head subtracts the mean over a batch, and so what the bias before it adds. The gradient of that bias is
# rounding alone, which Adam scales up. The outputs of the network do not depend on it.
UNDETERMINED = ("backbone.stages.1.norm.bias", "backbone.head.transform.bn.running_mean")


@pytest.fixture(params=CONFIGS)
def family(request):
    return request.param


@pytest.fixture
def checkpoint(family, tmp_path):
    path = tmp_path / "first" / "iter_2.pth"
    path.parent.mkdir()
    path.write_bytes(gzip.decompress((Path(__file__).parent / "first_edition" / f"{family}.pth.gz").read_bytes()))
    return path


@pytest.fixture
def network(family, checkpoint):
    """Build the checkpoint's network without any of this project's readers."""
    content = torch.load(checkpoint, weights_only=True)
    described = dict(content["meta"]["model"]["backbone"])
    assert described.pop("type") == f"{NETWORKS[family].__module__.split('.')[0]}.{NETWORKS[family].__name__}"
    network = NETWORKS[family](**described).eval()
    network.load_state_dict({k.removeprefix("backbone."): v for k, v in content["state_dict"].items()})
    return network


def test_a_training_goes_on_as_if_uninterrupted(family, checkpoint, network, tmp_path):
    """The resumed run ends like a whole run, within a tolerance.

    The machine that wrote the file gives the same bits. Another machine rounds differently in the two iterations that
    the file already holds.
    """
    for name, resume in (("whole", False), ("rest", checkpoint)):
        runs.call(runs.train, tmp_path / f"{name}.log", CONFIGS[family], tmp_path / name, *OPTIONS, resume=resume)
    whole, rest = (runs.last_state(tmp_path / name) for name in ("whole", "rest"))
    assert whole["meta"]["iter"] == rest["meta"]["iter"] == 4
    assert rest["meta"]["seed"] == read_file(checkpoint)["meta"]["seed"]
    assert rest["state_dict"].keys() == whole["state_dict"].keys()
    for name, expected in whole["state_dict"].items():
        if name not in UNDETERMINED:
            torch.testing.assert_close(rest["state_dict"][name], expected, rtol=1e-4, atol=1e-5, msg=name)
    images = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    outputs = []
    for state in (whole, rest):
        network.load_state_dict({k.removeprefix("backbone."): v for k, v in state["state_dict"].items()})
        outputs.append(network(images))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
    for name, expected in whole["optimizer"]["state"].items():
        for moment in ("step", "exp_avg", "exp_avg_sq"):
            actual = rest["optimizer"]["state"][name][moment]
            torch.testing.assert_close(actual, expected[moment], rtol=1e-3, atol=1e-5)
    assert rest["param_schedulers"] == whole["param_schedulers"]
    # The last two iterations changed the weights.
    start = read_file(checkpoint)["state_dict"]
    changed = [name for name in start if not torch.allclose(start[name], rest["state_dict"][name], atol=1e-4)]
    assert len(changed) > len(start) / 2


def test_it_is_tested(family, checkpoint, network, tmp_path):
    cfg = runs.configure(CONFIGS[family], tmp_path / "test", *OPTIONS, f"experiment_name=first-{family}")
    cfg.test_dataloader.num_batch_per_epoch = None
    found = train.test(cfg, checkpoint)
    digits = Digits(TestTransform(32, crop_ratio=1.0, mean=(0.31,), std=(0.35,)), split="test")
    with torch.inference_mode():
        scores = network(torch.stack([sample["inputs"] for sample in digits]))
    assert found["top1"] == pytest.approx(100 * top_k_accuracy_score(digits.labels, scores.numpy(), k=1))


def test_it_is_opened_by_itself(family, checkpoint, network):
    opened = open_model(str(checkpoint))
    assert opened.normalization == Normalization((0.31,), (0.35,), 32)
    assert opened.title == f"{NETWORKS[family].__name__}, iter_2.pth"
    assert list(opened.classes) == list("0123456789")
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(opened.network(images), network(images))


def test_it_predicts_for_an_image_file(family, checkpoint, network, tmp_path):
    image = Image.fromarray((load_digits().images[3] * 15).astype("uint8"))
    image.save(tmp_path / "3.png")
    predictor = Predictor(load_config(runs.CONFIGS / CONFIGS[family], [*OPTIONS]), checkpoint, "cpu")
    found = infer(predictor, tmp_path / "3.png", tmp_path / "out").predictions["3.png"]
    inputs = TestTransform(32, crop_ratio=1.0, mean=(0.31,), std=(0.35,))(image)
    expected = network(inputs.unsqueeze(0)).detach().softmax(1)[0].topk(5)
    assert found["classes"] == [str(i) for i in expected.indices.tolist()]
    assert found["scores"] == pytest.approx(expected.values.tolist(), abs=1e-5)
    assert (tmp_path / "out" / "3.png").is_file()
