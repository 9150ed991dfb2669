"""Bad input to the tools gives one clear line and a non-zero exit status, without a traceback."""

import itertools
import subprocess
import sys
import warnings

import pytest
import torch
from command_line import CONFIGS, ROOT, error_of

DIGITS = CONFIGS / "resnet" / "resnet18_digits.py"
QUADMAMBA = CONFIGS / "quadmamba" / "quadmamba-nano_digits.py"
# mmengine shares loggers between runs that have the same name and start in the same second.
NUMBER = itertools.count()


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mmengine's warnings also go to stderr
        yield


@pytest.fixture
def fails(capsys, tmp_path):
    def train(config, *options, tool=("train",)):
        # If the expected error is missing, the run trains only a little.
        options = [
            f"experiment_name={next(NUMBER)}",
            "train_cfg.max_epochs=1",
            "train_dataloader.num_batch_per_epoch=1",
            *options,
        ]
        return error_of(capsys, tool[0], config, *tool[1:], "--work-dir", tmp_path / "run", "--cfg-options", *options)

    return train


def test_fewer_images_than_a_batch(fails):
    few = ("train_dataloader.batch_size=2000", "train_dataloader.drop_last=True")
    line = fails(CONFIGS / "resnet" / "resnet18_digits.py", *few, "train_dataloader.num_batch_per_epoch=None")
    assert "has 1438 samples to train on, fewer than one batch of 2000" in line
    assert "set train_dataloader.batch_size=1438 or less" in line


@pytest.mark.parametrize(("split", "samples"), [("train", 1438), ("val", 359)])
def test_more_batches_than_there_are(fails, split, samples):
    batches = (f"{split}_dataloader.num_batch_per_epoch=1000", f"{split}_dataloader.batch_size=8")
    line = fails(CONFIGS / "resnet" / "resnet18_digits.py", *batches)
    assert f"num_batch_per_epoch of a data loader asks for 8000 samples, and its data have {samples}" in line


def test_as_a_process():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "train.py", CONFIGS / "resnet" / "resnet18_digit.py"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: there is no config")
    assert "resnet18_digits.py" in done.stderr.split("did you mean")[1]


OPTIONS = {
    "train_cg.max_epochs=3": ("train_cg", "train_cfg"),
    "train_cfg.max_epoch=3": ("max_epoch", "max_epochs"),
    "model.bakbone.name=resnet10t": ("bakbone", "backbone"),
    "model.backbone.in_chan=1": ("in_chan", "in_chans"),
    "train_dataloader.batchsize=8": ("batchsize", "batch_size"),
    "train_dataloader.dataset.transform.hflp=0.5": ("hflp", "hflip"),
    "optim_wrapper.optimizer.weight_deca=0": ("weight_deca", "weight_decay"),
    "default_hooks.checkpoint.save_besst=top1": ("save_besst", "save_best"),
    "param_scheduler.1.eta_minratio=0": ("eta_minratio", "eta_min_ratio"),
    "randomness.sed=1": ("sed", "seed"),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_unknown_option(fails, option):
    wrong, right = OPTIONS[option]
    line = fails(DIGITS, option)
    assert f"has no '{wrong}' (did you mean '{right}'?)" in line


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("train_cfg", "takes KEY=VALUE"),
        ("param_scheduler.7.end=1", "param_scheduler is a list of 2"),
        ("log_level.x=1", "log_level is a value"),
        ("model.backbone.name=resnet18x", "timm has no model 'resnet18x' (did you mean 'resnet18'?)"),
        ("model.backbone.type=quadtree_ssm.QuadMmba", "(did you mean 'quadtree_ssm.QuadMamba'?)"),
        ("model.backbone.type=quadtre_ssm.QuadMamba", "no package 'quadtre_ssm' (did you mean 'quadtree_ssm'?)"),
        ("train_dataloader.dataset.type=Digit", "train_dataloader.dataset.type: 'Digit' is no known dataset"),
        ("default_hooks.curves.type=CurveHook", "default_hooks.curves.type: 'CurveHook' is no known hook"),
        ("model.backbone.num_classes=7", "10 classes and the model 7 outputs: set model.backbone.num_classes=10"),
        ("train_dataloader.dataset.split=trian", "digits have the splits train and test, not 'trian'"),
        ("optim_wrapper.dtype=half", "optim_wrapper.dtype has to be 'float32', 'bfloat16' or 'float16', not 'half'"),
        ("optim_wrapper.paramwise_cfg.norm_decay=0", "paramwise_cfg"),
        ("param_scheduler.0.end=-1", "end should be larger than begin"),
        ("default_hooks.checkpoint.save_best=[top1,top2,top1]", "cannot be built"),
    ],
)
def test_wrong_value(fails, option, words):
    assert words in fails(DIGITS, option)


def test_how_a_segmentor_is_tested(capsys, tmp_path):
    """It is said before the training, not at the first validation."""
    config = QUADMAMBA.with_name("upernet_quadmamba-nano_nuclei-128x128.py")
    line = error_of(capsys, "train", config, "--work-dir", tmp_path, "--cfg-options", "model.test_cfg.mode=tiles")
    assert line == "error: model.test_cfg.mode has to be 'slide' or 'whole', not 'tiles'"


def test_saving_within_an_accumulated_update(fails):
    every_two = ("default_hooks.checkpoint.by_epoch=False", "default_hooks.checkpoint.interval=2")
    line = fails(DIGITS, "model.backbone.name=test_efficientnet", "optim_wrapper.accumulative_counts=4", *every_two)
    assert "interval=2 would save between the 4 iterations" in line


def test_unknown_variant(fails):
    assert "'tiney'" in (line := fails(QUADMAMBA, "model.backbone.arch=tiney"))
    assert "tiny" in line.split("'tiney'")[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train_dataloder = dict(batch_size=1)", "unknown key 'train_dataloder' (did you mean 'train_dataloader'?)"),
        ("model = dict(backbone=dict(nam='x'))", "model.backbone (timm) has no argument 'nam' (did you mean 'name'?)"),
        ("model = dict(", "is faulty: SyntaxError"),
        ("model = dict(backbone=undefined)", "is faulty: NameError"),
    ],
)
def test_faulty_config(fails, tmp_path, text, words):
    config = tmp_path / "leaf.py"
    config.write_text(f"_base_ = [{str(DIGITS)!r}]\n{text}\n")
    assert words in fails(config)
    config.write_text("_base_ = 'nowhere.py'")
    assert "nowhere.py" in fails(config)


@pytest.mark.parametrize(
    ("config", "path", "name"),
    [
        ("quadmamba/quadmamba-lite_fmnist.py", "data/fashion-mnist/train-images-idx3-ubyte.gz", "fashion-mnist"),
        ("mambatree/mambatree-tiny_8xb128_in1k.py", "data/imagenet/train", "imagenet"),
    ],
)
def test_missing_dataset(fails, monkeypatch, tmp_path, config, path, name):
    monkeypatch.chdir(tmp_path)
    # The model is small because it is built before the tool looks for the data.
    line = fails(CONFIGS / config, "model.backbone.depths=(1,1,1,1)", "model.backbone.dims=(8,8,8,8)")
    assert path in line
    assert f"tree-ssm prepare-data {name}" in line


def test_missing_own_images(fails, tmp_path):
    config = CONFIGS / "quadmamba" / "quadmamba-tiny_image-folder.py"
    line = fails(config, f"train_dataloader.dataset.root={tmp_path}", "model.backbone.arch=lite")
    assert f"there is no dataset folder {tmp_path / 'train'}; put your images there, one folder for each class" in line


def test_missing_wandb(fails, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    line = fails(DIGITS, "visualizer.wandb=True")
    assert "visualizer.wandb=True needs wandb" in line
    assert 'pip install "dist/FILE.whl[train]"' in line


def test_missing_scikit_learn(fails, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert "the digits dataset needs scikit-learn" in fails(DIGITS, "visualizer.tensorboard=False")


@pytest.fixture(scope="module")
def other_checkpoint(tmp_path_factory):
    """Write a checkpoint of timm's tiny test model with the metadata that our runs add."""
    from ssm_train.tasks.classification.timm_model import timm_model

    path = tmp_path_factory.mktemp("other") / "other.pth"
    state = {f"backbone.{k}": v for k, v in timm_model("test_efficientnet", 10, 1).state_dict().items()}
    meta = {"model": {"backbone": {"type": "timm", "name": "test_efficientnet"}}, "config_file": "other_digits.py"}
    torch.save({"meta": meta, "state_dict": state}, path)
    return path


def test_checkpoint_of_another_model(fails, other_checkpoint):
    line = fails(QUADMAMBA, "visualizer.tensorboard=False", tool=("test", other_checkpoint))
    assert "holds timm 'test_efficientnet' (config other_digits.py)" in line
    assert "does not fit this config's quadtree_ssm.QuadMamba" in line


def test_checkpoint_of_another_variant_names_the_first_difference(fails, other_checkpoint, tmp_path):
    state = torch.load(other_checkpoint)["state_dict"]
    state["backbone.conv_stemm.weight"] = state.pop("backbone.conv_stem.weight")
    torch.save(state, tmp_path / "bare.pth")
    line = fails(DIGITS, "model.backbone.name=test_efficientnet", tool=("test", tmp_path / "bare.pth"))
    assert "backbone.conv_stem.weight is not in the file (did you mean 'backbone.conv_stemm.weight'?)" in line
    assert "convert a file that the models' authors released with tree-ssm convert first" in line


class Harmful:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no such file"),
        (b"", "damaged or not a PyTorch checkpoint"),
        (b"not a checkpoint", "damaged or not a PyTorch checkpoint"),
        (Harmful(), "pickled Python objects"),
    ],
    ids=["missing", "empty", "text", "harmful"],
)
def test_no_checkpoint(fails, tmp_path, content, words, capsys):
    path = tmp_path / "x.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save({"state_dict": content}, path)
    assert words in fails(DIGITS, "model.backbone.name=test_efficientnet", tool=("test", path))
    assert "executed" not in capsys.readouterr().out


def test_resume_from_weights_alone(fails, other_checkpoint):
    line = fails(DIGITS, "model.backbone.name=test_efficientnet", tool=("train", "--resume", other_checkpoint))
    assert "has weights only and cannot be resumed" in line


def test_launcher_without_torchrun(fails, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert "tree-ssm dist-train" in fails(DIGITS, tool=("train", "--launcher", "pytorch"))


def test_an_address_that_nobody_answers(fails):
    line = fails(DIGITS, "model.backbone.name=test_efficientnet", "load_from=http://127.0.0.1:1/x.pth")
    assert line.startswith("error: cannot load the checkpoint http://127.0.0.1:1/x.pth: ")


def test_a_state_that_cannot_be_resumed(fails, other_checkpoint, tmp_path):
    content = torch.load(other_checkpoint)
    for number, meta in enumerate(({}, {"epoch": "one", "iter": 1}, {"epoch": 1, "iter": -1})):
        path = tmp_path / f"{number}.pth"
        torch.save({**content, "meta": meta, "optimizer": {}, "message_hub": {}}, path)
        line = fails(DIGITS, "model.backbone.name=test_efficientnet", tool=("train", "--resume", path))
        assert f"{path} cannot be resumed" in line


@pytest.mark.parametrize("meta", [[1], {"model": "x"}, {"model": {"backbone": "x"}}, {"dataset_meta": [1]}])
def test_foreign_meta(fails, other_checkpoint, tmp_path, meta):
    state = torch.load(other_checkpoint)["state_dict"]
    state.pop("backbone.conv_stem.weight")
    torch.save({"meta": meta, "state_dict": state}, tmp_path / "foreign.pth")
    line = fails(DIGITS, "model.backbone.name=test_efficientnet", tool=("test", tmp_path / "foreign.pth"))
    assert "backbone.conv_stem.weight is not in the file" in line
