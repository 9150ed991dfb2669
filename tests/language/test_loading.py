"""Tests of model folders, of transformers' Auto classes, and of adapters and their merging."""

import json

import pytest
import torch
from small_language import SIZE, rows, small_model
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, MambaConfig, MambaForCausalLM

from ssm_core.errors import CheckpointError, ConfigError
from ssm_core.testing import assert_close
from tree_ssm.language import (
    MambaTreeConfig,
    MambaTreeForCausalLM,
    MambaTreeModel,
    add_lora,
    load_network,
    load_tokenizer,
    merge_adapters,
)


def test_round_trip(tmp_path):
    model = small_model(torch.float32, tree_scale=0.7, tree_decay="own", tree_reach=2)
    model.save_pretrained(tmp_path)
    ids = rows(2, 9)
    for kind in (AutoModelForCausalLM, MambaTreeForCausalLM):
        again = kind.from_pretrained(tmp_path)
        assert type(again) is MambaTreeForCausalLM
        assert torch.equal(again(ids).logits, model(ids).logits)
    assert type(AutoModel.from_pretrained(tmp_path)) is MambaTreeModel
    config = AutoConfig.from_pretrained(tmp_path)
    assert (type(config), config.tree_scale, config.tree_decay, config.tree_reach) == (MambaTreeConfig, 0.7, "own", 2)
    assert again.lm_head.weight is again.backbone.embeddings.weight


def test_a_plain_mamba_becomes_one_and_is_saved_as_one(tmp_path):
    mamba = MambaForCausalLM(MambaConfig(**SIZE)).eval()
    mamba.save_pretrained(tmp_path / "mamba")
    model = load_network(str(tmp_path / "mamba"), tree_scale=0.0).eval()
    ids = rows(2, 9)
    assert_close(model(ids).logits, mamba(ids).logits, tolerance=2e-6)
    load_network(str(tmp_path / "mamba")).save_pretrained(tmp_path / "tree")
    saved = json.loads((tmp_path / "tree" / "config.json").read_text())
    assert (saved["model_type"], saved["tree_scale"]) == ("mambatree", 0.3)
    assert load_network(str(tmp_path / "tree"), tree_scale=0.5).config.tree_scale == 0.5


@pytest.mark.parametrize("tied", [True, False])
def test_adapters_merge_into_plain_weights(tmp_path, tied):
    model = add_lora(small_model(torch.float32, tie_word_embeddings=tied), r=2, alpha=4)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in trained}
    assert layers == {"x_proj", "in_proj", "out_proj", "embeddings"}
    assert all("lora_" in name for name in trained)
    ids = rows(2, 12)
    before = model(ids, context_len=7).logits
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # two, because half of the factors are zero in the first step
        model(ids, context_len=7, labels=ids).loss.backward()
        assert {name for name, p in model.named_parameters() if p.grad is not None} == trained
        optimizer.step()
    model.eval()
    expected = model(ids, context_len=7).logits
    assert not torch.allclose(expected, before, atol=1e-3)
    generated = model.generate(input_ids=ids, max_new_tokens=6, do_sample=False)
    merged = merge_adapters(model)
    assert type(merged) is MambaTreeForCausalLM
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert_close(merged(ids, context_len=7).logits, expected, tolerance=1e-5)
    merged.save_pretrained(tmp_path)
    again = load_network(str(tmp_path)).eval()
    assert_close(again(ids, context_len=7).logits, expected, tolerance=1e-5)
    assert torch.equal(again.generate(ids, max_new_tokens=6, do_sample=False), generated)


def test_an_adapter_that_would_be_bypassed_is_refused():
    model = add_lora(small_model(), targets=("dt_proj",))
    with pytest.raises(ValueError, match="the weight of dt_proj in layer 0 is read directly, so that a Linear there"):
        model(rows(1, 4))


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden_size", "many"), ("hidden_size", -1), ("vocab_size", 1.5), ("state_size", None), ("expand", [2]),
     ("use_bias", "yes"), ("layer_norm_epsilon", "small"), ("hidden_act", "os.system"), ("time_step_rank", {})],
)  # fmt: skip
def test_a_config_of_other_types(tmp_path, name, value):
    """transformers checks most types itself, with an exception of its own."""
    small_model(torch.float32).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, name: value}))
    with pytest.raises(CheckpointError) as found:
        load_network(str(tmp_path))
    assert str(tmp_path) in str(found.value)
    assert "\n" not in str(found.value)


def test_what_cannot_be_loaded(tmp_path, lm_folder):
    with pytest.raises(CheckpointError, match=r"there is no folder .*nothing, and it is no name of the Hub's"):
        load_network(str(tmp_path / "nothing"))
    with pytest.raises(CheckpointError, match=r"there is no config\.json in"):
        load_network(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(CheckpointError, match="is a gpt2, not a Mamba of transformers"):
        load_network(str(tmp_path))
    with pytest.raises(CheckpointError, match=r"there is no tokenizer\.json in"):
        load_tokenizer(str(tmp_path))
    tokenizer = load_tokenizer(str(lm_folder / "pretrained"))
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "no-pad")
    with pytest.raises(ConfigError, match=r"has no pad token: name one of its tokens, such as tokenizer.pad_token='<"):
        load_tokenizer(str(tmp_path / "no-pad"))
    assert load_tokenizer(str(tmp_path / "no-pad"), pad_token="<|endoftext|>").pad_token_id == tokenizer.eos_token_id
    with pytest.raises(ConfigError, match="pad_token='nothing' is not in the vocabulary"):
        load_tokenizer(str(tmp_path / "no-pad"), pad_token="nothing")
