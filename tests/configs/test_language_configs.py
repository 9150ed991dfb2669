"""The language models' configs load, say what the paper says, and differ in what they are to compare alone."""

import pytest
from test_configs import CONFIGS

from ssm_train.runtime.config import load_config
from ssm_train.runtime.config_check import TOP_LEVEL_KEYS

FOLDER = CONFIGS / "mambatree_l"
LEAVES = sorted(p.relative_to(FOLDER).as_posix() for p in FOLDER.rglob("*.py"))
SETTINGS = {
    "130m": ("mamba-130m_alpaca.py", "mamba-130m-lora_alpaca.py", "mambatree-l-130m_alpaca.py"),
    "4m": ("wiki/mamba-4m_alpaca-demo.py", "wiki/mamba-4m-lora_alpaca-demo.py", "wiki/mambatree-l-4m_alpaca-demo.py"),
}


def test_all_are_looked_at():
    assert {name for names in SETTINGS.values() for name in names} | {"wiki/mamba-4m_wiki.py"} == set(LEAVES)


@pytest.mark.parametrize("name", LEAVES)
def test_loads(name):
    cfg = load_config(FOLDER / name)
    own = {key for key in cfg if key not in TOP_LEVEL_KEYS}
    assert own <= {
        "accumulation",
        "blocks",
        "intro",
        "max_epochs",
        "request",
        "rows",
        "tokenizer",
        "tokenizer_path",
        "warmup",
    }
    assert cfg.val_dataloader == cfg.test_dataloader
    assert cfg.val_evaluator.type == "Perplexity"
    assert cfg.default_hooks.checkpoint.save_best == "perplexity"


@pytest.mark.parametrize("size", SETTINGS)
def test_three_settings_under_one(size):
    base, lora, tree = (load_config(FOLDER / name) for name in SETTINGS[size])
    assert (base.model.backbone.tree_scale, base.model.backbone.lora) == (0.0, None)
    assert (lora.model.backbone.tree_scale, tree.model.backbone.tree_scale) == (0.0, 0.3)
    assert lora.model.backbone.lora == tree.model.backbone.lora == dict(r=8, alpha=16, dropout=0.0)
    assert {k: v for k, v in lora.items() if k != "model"} == {k: v for k, v in tree.items() if k != "model"}
    assert base.test_dataloader == tree.test_dataloader
    assert all(base.get(key) is None for key in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler"))


def test_the_papers_recipe():
    cfg = load_config(FOLDER / "mambatree-l-130m_alpaca.py")
    assert cfg.model.backbone.path == "state-spaces/mamba-130m-hf"
    optimizer, wrapper = cfg.optim_wrapper.optimizer, cfg.optim_wrapper
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay, wrapper.dtype) == ("AdamW", 2e-5, 0.0, "bfloat16")
    assert cfg.train_dataloader.batch_size * wrapper.accumulative_counts == 16
    (warm_up,) = cfg.param_scheduler
    assert warm_up.end == 20 * wrapper.accumulative_counts
    assert cfg.train_cfg.max_epochs == 1
    assert cfg.train_dataloader.dataset.max_length == 2048
