"""Tests of tools/publish_checkpoint.py: what it keeps, the content's hash in the name, and the folder for the Hub."""

import hashlib
import json

import numpy as np
import pytest
import timm
import torch
from command_line import CONFIGS, error_of, run

from quadtree_ssm import QuadMamba
from ssm_core.weights import load_fitting, read_file
from ssm_train.apis import Predictor
from ssm_train.apis.open_model import open_model
from ssm_train.apis.publish import write_hub_folder
from ssm_train.runtime import checkpoints as ckpt
from ssm_train.runtime.config import load_config
from ssm_train.tasks import task_of
from tree_ssm import MambaTreeV

CONFIG = CONFIGS / "mambatree" / "mambatree-nano_digits.py"


def save_checkpoint(path, **changed):
    torch.manual_seed(0)
    model = task_of(load_config(CONFIG)).build()
    state = {
        "state_dict": model.state_dict(),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(200_000)}}},
        "message_hub": {},
        "param_schedulers": [],
        "meta": {"epoch": 3, "dataset_meta": {"classes": list("0123456789")}},
    }
    torch.save({**state, **changed}, path)
    return model


def test_publish(tmp_path, capsys):
    model = save_checkpoint(tmp_path / "best.pth").eval()
    arguments = ("--name", "mambatree-nano_digits", "--out", tmp_path / "out")
    hub = ("--hub", tmp_path / "hub", "--config", CONFIG)
    assert run("publish_checkpoint", tmp_path / "best.pth", *arguments, *hub) == 0
    (path,) = (tmp_path / "out").iterdir()
    assert str(path) in capsys.readouterr().out
    name, digits = path.stem.rsplit("-", 1)
    assert (name, digits) == ("mambatree-nano_digits", hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    assert path.stat().st_size < (tmp_path / "best.pth").stat().st_size - 700_000
    # torch checks the digits of the name, too.
    state = torch.hub.load_state_dict_from_url(
        path.as_uri(), model_dir=tmp_path / "torch", check_hash=True, progress=False, weights_only=True
    )
    assert state.keys() == {"meta", "state_dict"}
    assert state["meta"] == {"epoch": 3, "dataset_meta": {"classes": list("0123456789")}}
    assert all(torch.equal(tensor, state["state_dict"][name]) for name, tensor in model.state_dict().items())
    images = torch.randn(2, 1, 32, 32)
    for loaded in (
        MambaTreeV.from_pretrained(tmp_path / "hub"),
        timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True).eval(),
    ):
        assert torch.equal(loaded(images), model.backbone(images))
        scaling = timm.data.resolve_data_config({}, model=loaded)
        assert {key: tuple(scaling[key]) for key in ("mean", "std", "input_size")} == {
            "mean": (0.31,), "std": (0.35,), "input_size": (1, 32, 32)
        }  # fmt: skip
        assert (scaling["crop_pct"], scaling["interpolation"]) == (1.0, "bicubic")
    content = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert content["label_names"] == list("0123456789")
    assert "# mambatree-nano_digits\n\nMambaTreeV-Nano with " in (tmp_path / "hub" / "README.md").read_text()


def test_half_the_size(tmp_path, capsys):
    """The file of safetensors predicts without a config, has what that needs and no more, and starts a training."""
    cfg = load_config(CONFIG)
    meta = {"model": ckpt.plain(cfg.model), "test_transform": dict(cfg.test_dataloader.dataset.transform)}
    meta |= {"dataset_meta": {"classes": tuple("abcdefghij")}, "config_file": "mine.py", "epoch": 3}
    model = save_checkpoint(tmp_path / "best.pth", meta=meta).eval()
    assert run("publish_checkpoint", tmp_path / "best.pth", "--half", "--out", tmp_path / "out", "--name", "small") == 0
    (path,) = (tmp_path / "out").iterdir()
    assert path.name == f"small-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.safetensors"
    assert f"{path}: " in capsys.readouterr().out
    assert path.stat().st_size < 2.1 * sum(p.numel() for p in model.parameters())
    assert read_file(path)["meta"].keys() == meta.keys() - {"config_file", "epoch"}
    image = np.random.RandomState(0).randint(0, 256, (32, 32), dtype=np.uint8)
    found, expected = (Predictor(file)(image) for file in (path, tmp_path / "best.pth"))
    assert found["name"] == expected["name"]
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=2e-3)
    assert open_model(str(path)).title == f"MambaTreeV, {path.name}"
    fresh = task_of(cfg).build()
    assert load_fitting(fresh, read_file(path)["state_dict"], path) == ""
    for (name, one), other in zip(fresh.state_dict().items(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-7, msg=name)
    assert all(parameter.dtype is torch.float32 for parameter in fresh.parameters())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"state_dict": {"fc.weight": torch.tensor([1.0, 7e4])}}, "fc.weight has numbers beyond 65504"),
        ({"meta": {"model": {"type": "X", "scale": torch.ones(1)}}}, "its meta has what JSON cannot hold"),
        ({"meta": {"model": {"type": "X", "scale": float("nan")}}}, "its meta has what JSON cannot hold"),
    ],
)
def test_what_cannot_be_half(tmp_path, capsys, change, words):
    save_checkpoint(tmp_path / "net.pth", **change)
    assert words in error_of(capsys, "publish_checkpoint", tmp_path / "net.pth", "--half")
    assert [path.name for path in tmp_path.iterdir()] == ["net.pth"]
    assert run("publish_checkpoint", tmp_path / "net.pth") == 0


def test_the_backbone_of_a_segmentor(tmp_path):
    """It has the preprocessor's mean and deviation, of values between 0 and 1, and no classes."""
    torch.manual_seed(0)
    config = CONFIGS / "quadmamba" / "upernet_quadmamba-nano_nuclei-128x128.py"
    cfg = load_config(config)
    torch.save({"state_dict": task_of(cfg).build().state_dict()}, tmp_path / "net.pth")
    model, _ = task_of(cfg).load(tmp_path / "net.pth")
    write_hub_folder(model, cfg, tmp_path / "hub")
    loaded = QuadMamba.from_pretrained(tmp_path / "hub")
    images = torch.randn(1, 3, 64, 64)
    assert all(torch.equal(*pair) for pair in zip(loaded(images), model.backbone(images), strict=True))
    inputs = cfg.model.data_preprocessor
    assert loaded.image_data.mean == pytest.approx([value / 255 for value in inputs.mean])
    assert loaded.image_data.std == pytest.approx([value / 255 for value in inputs.std])
    assert loaded.image_data.size == (128, 128)
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "# upernet_quadmamba-nano_nuclei-128x128" in card
    assert "AutoModel.from_pretrained" in card


def test_errors(tmp_path, capsys):
    save_checkpoint(tmp_path / "net.pth")

    def error(file, *arguments):
        return error_of(capsys, "publish_checkpoint", tmp_path / file, *arguments)

    assert "--hub and --config go together" in error("net.pth", "--hub", tmp_path / "hub")
    assert "there is no such file" in error("none.pth")
    torch.save({"weights": {}}, tmp_path / "other.pth")
    assert "has no state_dict" in error("other.pth")
    torch.save(torch.ones(2), tmp_path / "tensor.pth")
    assert "has no state_dict" in error("tensor.pth")
    for number, damaged in enumerate(({}, [1], {1: torch.ones(2)}, {"a": 1}, {"a": torch.ones(2).to_sparse()})):
        save_checkpoint(tmp_path / f"damaged{number}.pth", state_dict=damaged)
        assert "state dict" in error(f"damaged{number}.pth")
    assert not list(tmp_path.glob("damaged*-*"))
    save_checkpoint(tmp_path / "nan.pth", state_dict={"fc.weight": torch.tensor([1.0, float("nan")])})
    assert "fc.weight has numbers that are NaN" in error("nan.pth")
    assert not list(tmp_path.glob("nan-*"))
    resnet = CONFIGS / "resnet" / "resnet18_digits.py"
    hub = ("--out", tmp_path / "out", "--hub", tmp_path / "hub", "--config")
    assert "tensors differ" in error("net.pth", *hub, resnet)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "hub").exists()
    save_checkpoint(tmp_path / "names.pth", meta={"dataset_meta": {"classes": ["\udcff", *"123456789"]}})
    words = r"the name of class 0, '\udcff', is no text: rename the class"
    assert words in error("names.pth", "--hub", tmp_path / "hub", "--config", CONFIG)


def test_a_file_is_left_only_with_its_folder(tmp_path, capsys):
    """The folder cannot be written, or the network is timm's."""
    save_checkpoint(tmp_path / "net.pth")
    (tmp_path / "hub").write_text("a file")
    place = ("--out", tmp_path / "out")
    hub = (*place, "--hub", tmp_path / "hub", "--config", CONFIG)
    assert str(tmp_path / "hub") in error_of(capsys, "publish_checkpoint", tmp_path / "net.pth", *hub)
    assert not list((tmp_path / "out").glob("*"))
    assert run("publish_checkpoint", tmp_path / "net.pth", *place) == 0
    (published,) = (tmp_path / "out").iterdir()
    error_of(capsys, "publish_checkpoint", tmp_path / "net.pth", *hub)
    assert list((tmp_path / "out").iterdir()) == [published]  # of the earlier command
    resnet = CONFIGS / "resnet" / "resnet18_digits.py"
    torch.save({"state_dict": task_of(load_config(resnet)).build().state_dict()}, tmp_path / "resnet.pth")
    error_of(
        capsys, "publish_checkpoint", tmp_path / "resnet.pth", *place, "--hub", tmp_path / "new", "--config", resnet
    )
    assert list((tmp_path / "out").iterdir()) == [published]


def test_a_run_with_other_options_names_its_own_config(tmp_path, capsys):
    """Publishing and testing by the config that was given to the training fails, and with the one it wrote works."""
    option = "model.backbone.dims=(8,16,16,16)"
    cfg = load_config(CONFIG, [option])
    cfg.dump(tmp_path / "run.py")
    meta = {"model": cfg.model.to_dict(), "config_file": CONFIG.name}
    torch.save({"state_dict": task_of(cfg).build().state_dict(), "meta": meta}, tmp_path / "net.pth")
    hub = ("--hub", tmp_path / "hub", "--config")
    lines = [
        error_of(capsys, "publish_checkpoint", tmp_path / "net.pth", *hub, CONFIG),
        error_of(capsys, "test", CONFIG, tmp_path / "net.pth", "--work-dir", tmp_path / "work"),
    ]
    for line in lines:
        assert "tensors differ, the first: backbone." in line
        assert line.endswith(f"is the run's own, which the training wrote into its work folder as {CONFIG.name}")
    assert run("publish_checkpoint", tmp_path / "net.pth", *hub, tmp_path / "run.py") == 0
