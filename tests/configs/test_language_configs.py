"""The configs of language models load, and differ only in what they compare. test_recipes.py tests the recipe."""

import pytest
import torch
import yaml
from test_configs import CONFIGS

from ssm_train.runtime.config import load_config
from ssm_train.runtime.config_check import TOP_LEVEL_KEYS
from tree_ssm.language import MambaTreeConfig, MambaTreeForCausalLM, add_lora

FOLDER = CONFIGS / "mambatree_l"
LEAVES = sorted(p.relative_to(FOLDER).as_posix() for p in FOLDER.rglob("*.py"))
SHARDED = "mambatree-l-1.4b_2xb4_alpaca.py"
SETTINGS = {
    "130m": ("mamba-130m_alpaca.py", "mamba-130m-lora_alpaca.py", "mambatree-l-130m_alpaca.py"),
    "4m": ("wiki/mamba-4m_alpaca-demo.py", "wiki/mamba-4m-lora_alpaca-demo.py", "wiki/mambatree-l-4m_alpaca-demo.py"),
}


def test_all_are_looked_at():
    others = {"wiki/mamba-4m_wiki.py", SHARDED}
    assert {name for names in SETTINGS.values() for name in names} | others == set(LEAVES)


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


# Vocabulary, width and number of layers. They are those of the checkpoint that a config names, or those that its
# tokenizer and its arguments give.
SIZES = {"130m": (50_280, 768, 24), "1.4b": (50_280, 2048, 48), "4m": (4096, 256, 8)}


def test_the_large_model_has_the_recipe_of_the_small_one():
    small, large = (load_config(FOLDER / name) for name in (SETTINGS["130m"][2], SHARDED))
    keys = {key for key in (*small, *large) if small.get(key) != large.get(key)}
    assert keys == {"model", "sharding", "optim_wrapper", "param_scheduler", "default_hooks", "auto_scale_lr"}
    rows = [cfg.train_dataloader.batch_size * cfg.optim_wrapper.accumulative_counts for cfg in (small, large)]
    assert rows[0] == 2 * rows[1] == 16
    assert large.auto_scale_lr == {"base_batch_size": rows[0], "enable": True}
    warmups = [cfg.param_scheduler[0].end // cfg.optim_wrapper.accumulative_counts for cfg in (small, large)]
    assert warmups == [20, 20]
    assert small.param_scheduler[0].start_factor == large.param_scheduler[0].start_factor
    assert large.optim_wrapper.optimizer == {**small.optim_wrapper.optimizer, "fused": True}


@pytest.mark.parametrize("name", LEAVES)
def test_parameters_in_the_metafile(name):
    size = next(numbers for key, numbers in SIZES.items() if f"-{key}" in name)
    backbone = load_config(FOLDER / name).model.backbone
    if "hidden_size" in backbone:
        assert (backbone.hidden_size, backbone.num_hidden_layers) == size[1:]
    with torch.device("meta"):
        network = MambaTreeForCausalLM(
            MambaTreeConfig(vocab_size=size[0], hidden_size=size[1], num_hidden_layers=size[2])
        )
        if backbone.get("lora"):
            network = add_lora(network, **backbone.lora)
    metafile = yaml.safe_load((FOLDER / "metafile.yml").read_text())
    (entry,) = [entry for entry in metafile["Models"] if entry["Config"] == f"configs/mambatree_l/{name}"]
    assert entry["Metadata"]["Parameters"] == sum(parameter.numel() for parameter in network.parameters())
