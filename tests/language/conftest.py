"""A tokenizer and a model with random weights in a folder, and a file of instructions."""

import json

import pytest
import torch
from small import text_and_rows

from tree_ssm.language import MambaTreeConfig, MambaTreeForCausalLM, save_network
from tree_ssm.language.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """``pretrained/``, ``text.txt`` and ``rows.json``."""
    path = tmp_path_factory.mktemp("language")
    text, rows = text_and_rows()
    (path / "text.txt").write_text(text)
    (path / "rows.json").write_text(json.dumps(rows))
    tokenizer = train_tokenizer(text.splitlines(keepends=True), vocab_size=300)
    torch.manual_seed(0)
    config = MambaTreeConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, state_size=4, initializer_range=0.02,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    save_network(MambaTreeForCausalLM(config), path / "pretrained", tokenizer)
    return path
