"""Fixtures of several tests of data."""

import pytest


@pytest.fixture
def tokenizer(lm_folder):
    """Return the config of a small tokenizer."""
    return dict(type="tree_ssm.language.load_tokenizer", path=str(lm_folder / "pretrained"))
