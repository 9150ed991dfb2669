"""A run's config is complete once it is built. Configs that are derived from it leave it unchanged."""

import copy
import re
import sys

import pytest
from command_line import CONFIGS
from mmengine.config import Config

from ssm_core.errors import ConfigError
from ssm_train.runtime.config import changed, load_config, parse_value, run_config, with_test_augmentation

DIGITS = CONFIGS / "quadmamba" / "quadmamba-nano_digits.py"
COMPOSITE = CONFIGS / "quadmamba" / "upernet_quadmamba-lite_composite-256x256.py"


def same(a, b):
    return a.to_dict() == b.to_dict()


# --- run_config


def test_what_a_run_adds_to_its_config():
    cfg, plain = run_config(DIGITS), load_config(DIGITS)
    assert cfg.work_dir == "work_dirs/quadmamba-nano_digits"
    assert cfg.launcher == "none"
    added = {"work_dir", "launcher"}
    assert {k: v for k, v in cfg.to_dict().items() if k not in added} == {
        k: v for k, v in plain.to_dict().items() if k not in added
    }


def test_the_folder_of_a_run(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(f"_base_ = {str(DIGITS)!r}\nwork_dir = 'mine'\n")
    assert run_config(own).work_dir == "mine"
    assert run_config(own, work_dir="elsewhere").work_dir == "elsewhere"
    assert run_config(own, ["work_dir=optional"]).work_dir == "optional"


def test_options_and_launcher():
    cfg = run_config(DIGITS, ["train_cfg.max_epochs=3"], launcher="pytorch")
    assert cfg.train_cfg.max_epochs == 3
    assert cfg.launcher == "pytorch"


@pytest.mark.parametrize(("given", "expected"), [("float32", "bfloat16"), ("float16", "float16"), (None, "bfloat16")])
def test_mixed_precision_unless_the_config_names_one(given, expected):
    options = [] if given is None else [f"optim_wrapper.dtype={given}"]
    assert run_config(DIGITS, options, amp=True).optim_wrapper.dtype == expected
    assert run_config(DIGITS, options).optim_wrapper.get("dtype") == load_config(DIGITS, options).optim_wrapper.get(
        "dtype"
    )


def test_compiling_keeps_the_configs_settings():
    assert "compile" not in run_config(DIGITS)
    assert run_config(DIGITS, compiled=True).compile is True
    assert run_config(DIGITS, ["compile=False"], compiled=True).compile is True
    cfg = run_config(DIGITS, ["compile={'backend': 'aot_eager'}"], compiled=True)
    assert cfg.compile.to_dict() == {"backend": "aot_eager"}


# --- changed


def test_a_changed_copy():
    cfg = load_config(DIGITS)
    before = copy.deepcopy(cfg.to_dict())
    other = changed(cfg, {"resume": True, "model": {"type": "Other"}, "work_dir": "x"})
    assert cfg.to_dict() == before
    assert (other.resume, other.model.type, other.work_dir) == (True, "Other", "x")
    kept = before.keys() - {"resume", "model", "work_dir"}
    assert {key: other.to_dict()[key] for key in kept} == {key: before[key] for key in kept}
    assert other.filename == cfg.filename, "errors and checkpoints name the file"


def test_nothing_is_shared_with_a_changed_copy():
    cfg = load_config(DIGITS)
    before = copy.deepcopy(cfg.to_dict())
    other = changed(cfg, {})
    assert same(other, cfg)
    other.model.backbone.depths = (9, 9)
    other.train_dataloader.dataset.transform.size = 7
    other.merge_from_dict({"optim_wrapper.optimizer.lr": 5.0})
    assert cfg.to_dict() == before


# --- with_test_augmentation


def test_an_augmented_test():
    cfg = load_config(COMPOSITE)
    before = copy.deepcopy(cfg.to_dict())
    augmented = with_test_augmentation(cfg)
    assert cfg.to_dict() == before
    assert augmented.model.module.to_dict() == before["model"]
    assert {k: v for k, v in augmented.model.to_dict().items() if k != "module"} == before["tta_model"]
    assert augmented.test_dataloader.dataset.to_dict() == {
        **before["test_dataloader"]["dataset"],
        "pipeline": before["tta_pipeline"],
    }
    assert augmented.val_dataloader.to_dict() == before["val_dataloader"]
    augmented.model.module.decode_head.channels = 1
    augmented.tta_pipeline[0].type = "Other"
    assert cfg.to_dict() == before, "nothing is shared"


def test_a_wrapped_test_set_is_augmented_inside():
    cfg = load_config(COMPOSITE)
    inner = cfg.test_dataloader.dataset.to_dict()
    cfg.test_dataloader.dataset = {"type": "RepeatDataset", "times": 2, "dataset": {"type": "x", "dataset": inner}}
    augmented = with_test_augmentation(cfg)
    wrapped = augmented.test_dataloader.dataset
    assert wrapped.dataset.dataset.pipeline == augmented.tta_pipeline
    assert "pipeline" not in wrapped
    assert "pipeline" not in wrapped.dataset


@pytest.mark.parametrize("key", ["tta_pipeline", "tta_model"])
def test_an_augmentation_that_is_not_whole(key):
    cfg = Config({k: v for k, v in load_config(COMPOSITE).items() if k != key})
    with pytest.raises(ConfigError) as error:
        with_test_augmentation(cfg)
    assert str(error.value) == f"the config has no {key}: there is no test-time augmentation"


# --- Options


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 1e-3),
        ("'3'", "3"),
        ("true", True),
        ("False", False),
        ("none", None),
        ("small", "small"),
        ("a,b", ["a", "b"]),
        ("(64,64)", (64, 64)),
        ("[a, 2, true]", ["a", 2, True]),
        ("{'a': [1]}", {"a": [1]}),
        ("data/x.json", "data/x.json"),
    ],
)
def test_values_of_options(text, value):
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_options_leave_other_keys_alone():
    plain = load_config(DIGITS).to_dict()
    changed_once = load_config(DIGITS, ["train_cfg.max_epochs=99"])
    assert isinstance(changed_once, Config)
    assert changed_once.train_cfg.pop("max_epochs") == 99
    plain["train_cfg"].pop("max_epochs")
    assert changed_once.to_dict() == plain


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("model=3", "model has to be a dictionary, not 3"),
        ("model=none", "model has to be a dictionary, not None"),
        ("model.type=3", "model.type has to be the name of a class, not 3"),
        ("model.backbone=5", "model.backbone has to be a dictionary, not 5"),
        ("default_scope=3", "default_scope has to be a text or None, not 3"),
        ("train_cfg=3", "train_cfg has to be a dictionary or None, not 3"),
        ("randomness=3", "randomness has to be a dictionary, not 3"),
        ("test_dataloader=[1]", r"test_dataloader has to be a dictionary or None, not \[1\]"),
        ("test_dataloader.dataset=none", "test_dataloader.dataset has to be a dictionary, not None"),
        ("custom_hooks=3", "custom_hooks has to be a list"),
    ],
)
def test_values_of_another_kind(option, words):
    with pytest.raises(ConfigError, match=words):
        load_config(DIGITS, [option])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("rnd-m9", "a policy of timm's ('rand', 'augmix', 'original', 'originalr', 'v0', 'v0r' or '3a', then options"),
        ("rand-m9-x3", "'rand' with options such as -m1, -n1, -p0.5, -mstd0.5, -mmax1, -inc1, -tweights, -t3a, -t3aw"),
        ("rand-m9.5", "'rand' with options such as -m1"),  # timm's own error is that of int()
        ("rand-m9-inc", "'rand' with options such as -m1"),  # timm would ignore it
        ("augmix-n2", "'augmix' with options such as -m1, -w1, -d1, -a0.5, -b1, -mstd0.5"),
        ("v0-m9", "'v0' with options such as -mstd0.5"),
    ],
)
def test_a_policy_that_timm_does_not_know_is_named_with_its_key(value, words):
    key = "train_dataloader.dataset.transform.auto_augment"
    with pytest.raises(ConfigError) as error:
        load_config("mambatree/mambatree-tiny_image-folder", [f"{key}={value}"])
    assert str(error.value).startswith(f"{key} is {value!r}: it has to be {words}")
    assert ("did you mean 'rand'?" in str(error.value)) == (value == "rnd-m9")


@pytest.mark.parametrize("value", ["rand-m9-n3-mstd0.5", "rand-mstd1-tweights", "augmix-m5-w4-d2", "original-mstd0.5"])
def test_policies_of_timms_documentation_are_taken(value):
    key = "train_dataloader.dataset.transform.auto_augment"
    load_config("mambatree/mambatree-tiny_image-folder", [f"{key}={value}"])


@pytest.fixture
def own_modules(tmp_path, monkeypatch):
    """Modules of a user's own in Python's path, and a config that imports one of them."""
    (tmp_path / "path").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "path")
    (tmp_path / "path" / "own_heads.py").write_text("import nothing_such\n")
    (tmp_path / "path" / "own_broken.py").write_text("x = (\n")
    (tmp_path / "own_beside.py").touch()

    def write(settings):
        config = tmp_path / "own.py"
        config.write_text(f'_base_ = "{DIGITS}"\ncustom_imports = dict({settings})\n')
        return config

    return write


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("imports=['own_haeds']", "{begin} and there is no such module (did you mean 'own_heads'?): correct the name"),
        ("imports='torch.nnn'", "{begin} and there is no such module (did you mean 'torch.nn'?): correct the name, or"),
        ("imports='own_beside'", "{begin} and Python does not look where {here}/own_beside.py is: put PYTHONPATH="),
        ("imports=['own_heads']", "{begin} which cannot be imported: ModuleNotFoundError: No module named 'nothing_"
                                  "such' ({here}/path/own_heads.py, line 1)"),
        ("imports=['own_broken']", "{begin} which cannot be imported: SyntaxError: '(' was never closed ({here}/"),
        ("import_=['own_heads']", "custom_imports has no argument 'import_' (did you mean 'imports'?)"),
        ("imports=[3]", "custom_imports.imports has to be a text, a list (a text each) or None, not [3]"),
    ],
)  # fmt: skip
def test_a_module_that_cannot_be_imported_is_one_sentence(tmp_path, own_modules, settings, words):
    config = own_modules(settings)
    with pytest.raises(ConfigError) as error:
        load_config(config)
    name = settings.partition("=")[2].strip("[]")
    begin = f"the config {config} imports {name} (custom_imports.imports),"
    assert str(error.value).startswith(words.format(begin=begin, here=tmp_path))


def test_modules_are_imported_and_may_be_allowed_to_fail(tmp_path, own_modules):
    (tmp_path / "path" / "own_good.py").touch()
    try:
        load_config(own_modules("imports=['own_good', 'own_haeds'], allow_failed_imports=True"))
        assert "own_good" in sys.modules
    finally:
        sys.modules.pop("own_good", None)


# --- Names of the first edition


@pytest.mark.parametrize(
    "line",
    [
        'default_scope = "ssm_core"',
        'custom_hooks = [dict(type="ssm_core.CurvesHook")]',
        'train_dataloader = dict(dataset=dict(type="ssm_core.engine.detection.CocoInstances"))',
        "import ssm_core.engine",
    ],
)
def test_names_of_the_first_edition(tmp_path, line):
    config = tmp_path / "old.py"
    config.write_text(f'_base_ = "{DIGITS}"\n{line}\n')
    with pytest.raises(ConfigError, match=r"names changed with the second edition: docs/upgrading\.md"):
        load_config(config)


@pytest.mark.parametrize(
    ("base", "hint"),
    [
        ("ssm_train::mambatree/mambatree-nano_fmnst.py", "'ssm_train::mambatree/mambatree-nano_fmnist.py'"),
        ("./mine-twoo.py", "'mine-two.py'"),
    ],
)
def test_a_base_that_is_no_file(base, hint, tmp_path):
    (tmp_path / "mine-two.py").write_text("")
    (tmp_path / "mine.py").write_text(f"_base_ = {base!r}")
    with pytest.raises(ConfigError, match=re.escape(f"mine.py inherits from {base}, which is no file")) as error:
        load_config(tmp_path / "mine.py")
    assert f"did you mean {hint}?" in str(error.value)


@pytest.mark.parametrize("base", ["ssm_trian::quadmamba/quadmamba-nano_digits.py", "::x.py"])
def test_a_base_of_a_package_that_has_no_configs(tmp_path, base):
    (tmp_path / "a.py").write_text(f'_base_ = "{base}"\n')
    package = base.partition("::")[0]
    with pytest.raises(ConfigError, match=f"inherits from {base}, and '{package}' is no such package"):
        load_config(tmp_path / "a.py")
