import errno
import io
import os
import subprocess
import sys
import types
import warnings

import pytest
import timm
import torch
from command_line import ROOT, run
from oracles import released_mambatree, released_quadmamba
from oracles.weights import cast, make_images, make_weights

from quadtree_ssm import QuadMamba
from ssm_core.conversion import recognise, rename
from ssm_train.apis.convert import FAMILIES, name_of
from ssm_train.registry import MODELS
from tree_ssm import MambaTreeV

QUADMAMBA, MAMBATREE = FAMILIES

QUADMAMBA_SHAPES = released_quadmamba.shapes((1, 2, 1, 1), (16, 16, 24, 32), d_state=2)
MAMBATREE_SHAPES = released_mambatree.shapes((1, 1, 2, 1), 16, layer_scale=True)
SHAPES = {"QuadMamba": QUADMAMBA_SHAPES, "MambaTree": MAMBATREE_SHAPES}
both_families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.released.title)


def float_weights(shapes):
    return cast(make_weights(shapes, 0), torch.float32)


@pytest.fixture(name="weights")
def quadmamba_weights():
    return float_weights(QUADMAMBA_SHAPES)


@pytest.fixture
def convert(tmp_path, capsys):
    """Save a content and convert it. Return the exit status, the written content (or None) and the message."""

    def convert_content(content, *options):
        source, destination = tmp_path / "source.pth", tmp_path / "converted.pth"
        source.write_bytes(content) if isinstance(content, bytes) else torch.save(content, source)
        status = run("convert_checkpoint", str(source), str(destination), *options)
        written = torch.load(destination, weights_only=True) if destination.exists() else None
        output = capsys.readouterr()
        assert sorted(p.name for p in tmp_path.iterdir() if p not in (source, destination)) == []
        if status:
            assert output.out == ""
            assert output.err.startswith("error: ")
            assert output.err.count("\n") == 1
        return status, written, output.err if status else output.out

    return convert_content


@both_families
def test_lists_every_tensor_and_writes_a_loadable_model(family, convert):
    weights = float_weights(SHAPES[family.released.title])
    status, written, listing = convert({"model": weights, "epoch": 299})
    assert status == 0
    for name in weights:
        assert any(line.startswith((f"{name} -> ", f"{name}[")) for line in listing.splitlines()), name
    assert written["meta"]["entry"] == "model"
    assert f"dict(type={written['meta']['model']['type']!r}, " in listing
    model = MODELS.build({"type": "ssm_train.ImageClassifier", "backbone": written["meta"]["model"]}).backbone
    model.load_state_dict(written["state_dict"], strict=True)
    assert sum(t.numel() for t in model.state_dict().values()) == sum(t.numel() for t in weights.values())
    assert model(make_images(1, 64, 64, 0).float()).shape == (1, 10)


def test_released_token_order_comes_with_the_weights(convert, weights):
    assert convert(weights)[1]["meta"]["model"]["token_order"] == "released"
    assert convert(weights, "--global-predictor")[1]["meta"]["model"]["predictor_context"] == "global"


@pytest.mark.parametrize(
    ("family", "arch"),
    [
        pytest.param(family, arch, id=f"{family.released.title}-{arch}")
        for family in FAMILIES
        for arch in family.architectures
    ],
)
def test_variants_are_recognised(family, arch):
    with torch.device("meta"):
        model = family.build(arch=arch)
        depths, dims, ssm_ratio, _ = family.architectures[arch]
        if family is QUADMAMBA:
            shapes = released_quadmamba.shapes(depths, dims, ssm_ratio=ssm_ratio, num_classes=1000)
        else:
            shapes = released_mambatree.shapes(depths, dims[0], ssm_ratio=ssm_ratio, num_classes=1000)
        released = {name: torch.empty(shape) for name, shape in shapes.items()}
    assert recognise(released, [f.released for f in FAMILIES]) is family.released
    assert name_of(family, family.released.arguments(released)) == arch
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    renaming = rename(released, own, family.released.source_of)
    assert not renaming.missing
    assert not renaming.left_over
    assert not renaming.misshapen


def test_backbones_become_backbones(convert):
    shapes = released_quadmamba.shapes((1, 1, 1, 1), (16, 16, 16, 16), num_classes=None, out_indices=(0, 1, 2, 3))
    arguments = convert({"model": float_weights(shapes)})[1]["meta"]["model"]
    assert arguments["out_indices"] == (0, 1, 2, 3)
    shapes = released_mambatree.shapes((1, 1, 1, 1), 16, num_classes=None)
    arguments = convert({"model": float_weights(shapes)})[1]["meta"]["model"]
    assert arguments["out_indices"] == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("pack", "options"),
    [
        (lambda w: w, ()),
        (lambda w: {"state_dict": w, "meta": {"epoch": 3}}, ()),
        (lambda w: {"model_ema": w, "ema_decay": 0.9999}, ()),
        (lambda w: {"model": {"noise": torch.zeros(1)}, "model_ema": w}, ("--entry", "model_ema")),
        (lambda w: {"model": {f"module.{name}": t for name, t in w.items()}}, ()),
        (
            lambda w: {"state_dict": {f"backbone.{n}": t for n, t in w.items()} | {"neck.weight": torch.ones(1)}},
            ("--prefix", "backbone."),
        ),
    ],
    ids=["bare", "state_dict", "ema alone", "ema asked for", "data parallel", "detector"],
)
def test_other_containers(convert, weights, pack, options):
    status, written, _ = convert(pack(weights), *options)
    assert status == 0
    assert torch.equal(written["state_dict"]["stem.conv1.weight"], weights["patch_embed.0.weight"])


@pytest.mark.parametrize(
    ("title", "lost"),
    [
        ("QuadMamba", "layers.1.blocks.1.mlp.fc1.bias"),
        ("QuadMamba", "layers.0.downsample.3.weight"),
        ("QuadMamba", "layers.0.blocks.0.op.A_logs"),
        ("QuadMamba", "patch_embed.0.weight"),
        ("QuadMamba", "classifier.head.weight"),
        ("MambaTree", "levels.2.blocks.1.TreeSSM.in_proj.weight"),
        ("MambaTree", "levels.1.norm.0.bias"),
        ("MambaTree", "levels.0.blocks.0.gamma2"),
        ("MambaTree", "conv_head.1.0.running_mean"),
        ("MambaTree", "patch_embed.conv1.weight"),
        ("MambaTree", "head.weight"),
    ],
)
def test_missing_tensors_are_named(title, lost, convert):
    weights = float_weights(SHAPES[title])
    del weights[lost]
    status, written, message = convert({"model": weights})
    assert (status, written) == (1, None)
    assert lost in message
    assert "missing" in message


def test_left_over_tensors_are_named(convert, weights):
    extra = {"layers.0.blocks.0.op.z_proj.weight": torch.ones(1), "pos_embed": torch.ones(1)}
    status, written, message = convert({"model": weights | extra})
    assert (status, written) == (1, None)
    assert "left over: layers.0.blocks.0.op.z_proj.weight, pos_embed" in message


def test_a_tensor_of_another_shape_is_named(convert, weights):
    weights["layers.1.blocks.1.op.Ds"] = torch.ones(3, 11)
    status, written, message = convert({"model": weights})
    assert (status, written) == (1, None)
    assert "layers.1.blocks.1.op.Ds is (3, 11)" in message
    weights["layers.0.blocks.0.op.A_logs"] = torch.ones(64)
    assert "layers.0.blocks.0.op.A_logs has too few dimensions, its shape is (64,)" in convert({"model": weights})[2]
    tree, name = float_weights(MAMBATREE_SHAPES), "levels.0.blocks.0.TreeSSM.in_proj.weight"
    tree[name] = torch.cat([tree[name], tree[name][:1]])  # an odd size has no equal halves
    assert f"{name} is (65, 16)" in convert({"model": tree})[2]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"model": {"layers.0.blocks.0.op.x_proj_weight": torch.ones(1)}}, "no released checkpoint of QuadMamba or"),
        ({"model": {"stem.conv1.weight": torch.ones(1)}}, "our own format already"),
        ({"model": {f"backbone.{n}": torch.ones(1) for n in QUADMAMBA_SHAPES}}, "give --prefix backbone."),
        ({"model": {}}, "holds nothing"),
        ({"epoch": 3, "lr": 0.1}, "other things than named dense tensors: epoch, lr"),
        ({"model": {0: torch.ones(1)}}, "other things than named dense tensors: 0"),
        ([torch.ones(1)], "holds a list, not a dictionary"),
    ],
    ids=["VMamba", "ours", "prefix", "empty", "no weights", "numbered", "list"],
)
def test_other_files_are_told_apart(convert, content, says):
    status, written, message = convert(content)
    assert (status, written) == (1, None)
    assert says in message


def test_options_that_do_not_fit(convert, weights):
    assert "has no state dict 'model_ema': its entries are model" in convert({"model": weights}, "--entry=model_ema")[2]
    assert "begins with 'backbone.'" in convert({"model": weights}, "--prefix=backbone.")[2]
    tree = float_weights(MAMBATREE_SHAPES)
    assert "--global-predictor is for QuadMamba" in convert({"model": tree}, "--global-predictor")[2]


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_file_that_needs_pickle_is_refused_and_not_run(convert, weights, tmp_path):
    status, written, message = convert({"model": weights, "config": Bomb(tmp_path / "exploded")})
    assert (status, written) == (1, None)
    assert not (tmp_path / "exploded").exists()
    assert "holds pickled Python objects (" in message
    assert "mkdir" in message


def test_the_authors_training_files_are_read_with_their_yacs_config(convert, weights, monkeypatch):
    """yacs can be imported when the file is written, but not when it is read. Its CfgNode is a dict with attributes."""

    class CfgNode(dict):
        def __init__(self, items):
            super().__init__(items)
            self.__dict__["__immutable__"] = True

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    with monkeypatch.context() as patch:
        for name in ("yacs", "yacs.config"):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules["yacs.config"].CfgNode = CfgNode
        buffer = io.BytesIO()
        config = CfgNode({"MODEL": CfgNode({"DEPTHS": [2, 2], "RESUME": None}), "TAG": "default"})
        torch.save({"model": weights, "config": config, "epoch": 299, "max_accuracy": 82.2}, buffer)
    status, written, _ = convert(buffer.getvalue())
    assert status == 0
    assert written is not None


def with_a_flipped_bit(data):
    place = len(data) // 2
    return data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        with_a_flipped_bit,
        lambda data: b"",
        lambda data: b"weights",
        lambda d: None,
    ],
    ids=["half", "one bit", "empty", "text", "absent"],
)
def test_damaged_and_absent_files(tmp_path, capsys, weights, damage):
    source, destination = tmp_path / "source.pth", tmp_path / "converted.pth"
    torch.save({"model": weights}, source)
    left = damage(source.read_bytes())
    source.unlink()
    if left is not None:
        source.write_bytes(left)
    assert run("convert_checkpoint", str(source), str(destination)) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert str(source) in message
    assert not destination.exists()


def test_nothing_is_half_written(tmp_path, monkeypatch, capsys, weights):
    source, destination = tmp_path / "source.pth", tmp_path / "converted.pth"
    torch.save({"model": weights}, source)
    destination.write_bytes(b"the file of last week")

    def full_disk(content, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    assert run("convert_checkpoint", str(source), str(destination)) == 1
    assert capsys.readouterr().err.startswith(f"error: cannot write {destination}: disk full")
    assert destination.read_bytes() == b"the file of last week"
    assert sorted(tmp_path.iterdir()) == [destination, source]


def test_the_source_is_never_overwritten(tmp_path, capsys, weights):
    source = tmp_path / "source.pth"
    torch.save({"model": weights}, source)
    before = source.read_bytes()
    assert run("convert_checkpoint", str(source), str(source)) == 1
    assert "DST is SRC" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_folders_are_made(tmp_path, weights):
    source, destination = tmp_path / "source.pth", tmp_path / "a" / "b" / "converted.pth"
    torch.save({"model": weights}, source)
    assert run("convert_checkpoint", str(source), str(destination)) == 0
    assert destination.exists()


def test_command_line(tmp_path, quick_python):
    command = [
        quick_python,
        str(ROOT / "tools" / "convert_checkpoint.py"),
        str(tmp_path / "absent.pth"),
        str(tmp_path / "converted.pth"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: cannot read the checkpoint {tmp_path / 'absent.pth'}: there is no such file\n"
    with pytest.raises(SystemExit) as usage:
        run("convert_checkpoint", command[2])
    assert usage.value.code == 2


TIMM = {
    "quadmamba_lite": (QUADMAMBA, {"depths": (1, 2, 1, 1), "dims": (16, 16, 24, 32), "d_state": 2, "ssm_ratio": 2.0}),
    "mambatree_tiny": (MAMBATREE, {"depths": (1, 1, 2, 1), "dims": (16, 32, 64, 128), "layer_scale": 1.0}),
}


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.filterwarnings("ignore:these weights come from the released QuadMamba")
def test_timm_loads_released_files(tmp_path, name):
    family, arguments = TIMM[name]
    file = tmp_path / "released.pth"
    weights = float_weights(SHAPES[family.released.title])
    torch.save({"model": weights}, file)
    overlay = {"file": str(file), "num_classes": 10}
    ways = (
        {"pretrained": True, "pretrained_cfg_overlay": overlay, "num_classes": 10},
        {"checkpoint_path": str(file), "num_classes": 10},
    )
    for way in ways:
        model = timm.create_model(name, **way, **arguments)
        expected = rename(weights, {n: t.shape for n, t in model.state_dict().items()}, family.released.source_of)
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, expected.tensors[key]), key
    # With another number of classes, the model keeps its new classifier and takes the other weights.
    tuned = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3, **arguments)
    assert tuned.get_classifier().weight.shape[0] == 3
    assert torch.equal(tuned.stem.conv1.weight, model.stem.conv1.weight)
    # The error lists weights that the model does not use under their names in the file.
    with pytest.raises(RuntimeError, match=r"Unexpected key.*(layers|levels)"):
        timm.create_model(name, checkpoint_path=str(file), **arguments | {"depths": (1, 1, 1, 1)}, num_classes=10)


def test_another_token_order_is_pointed_out(weights):
    arguments = TIMM["quadmamba_lite"][1]
    with pytest.warns(UserWarning, match="token_order='released'"):
        QuadMamba(**arguments, num_classes=10).load_state_dict(weights)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        QuadMamba(**arguments, num_classes=10, token_order="released").load_state_dict(weights)


@both_families
def test_timm_loads_converted_files(family, convert, tmp_path):
    status, written, _ = convert({"model": float_weights(SHAPES[family.released.title])})
    assert status == 0
    name = "quadmamba_small" if family is QUADMAMBA else "mambatree_tiny"
    arguments = {key: value for key, value in written["meta"]["model"].items() if key != "type"}
    model = timm.create_model(name, checkpoint_path=str(tmp_path / "converted.pth"), **arguments)
    assert isinstance(model, QuadMamba if family is QUADMAMBA else MambaTreeV)
    assert all(torch.equal(t, written["state_dict"][n]) for n, t in model.state_dict().items())
