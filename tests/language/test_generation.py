"""Generation with cached states gives the same tokens as generation without a cache."""

import pytest
import torch
from small_language import rows, small_model
from transformers import DynamicCache

from ssm_core.testing import assert_close

MODES = {
    "greedy": dict(do_sample=False),
    "beams": dict(do_sample=False, num_beams=3),
    "sampled": dict(do_sample=True, top_k=0),
}


def generate(model, ids, **options):
    torch.manual_seed(3)
    return model.generate(ids, max_new_tokens=12, eos_token_id=None, **options)


@pytest.mark.parametrize("rule", ["next", "own"])
@pytest.mark.parametrize("mode", MODES)
def test_cached_equals_uncached(mode, rule):
    model = small_model(tree_decay=rule, tree_scale=1.0)
    ids, mask = rows(3, 14), torch.ones(3, 14, dtype=torch.int64)
    for row, padding in enumerate((0, 3, 9)):
        ids[row, :padding], mask[row, :padding] = 0, 0
    for prompt in ({}, {"context_len": torch.tensor([14, 4, 0])}, {"context_len": torch.tensor([9, 5, 0])}):
        cached = generate(model, ids, attention_mask=mask, **MODES[mode], **prompt)
        plain = generate(model, ids, attention_mask=mask, use_cache=False, **MODES[mode], **prompt)
        assert cached.shape == (3, 26)
        assert torch.equal(cached, plain)


def test_rows_generate_as_they_would_alone():
    model = small_model()
    ids, mask = rows(2, 10), torch.ones(2, 10, dtype=torch.int64)
    ids[1, :6], mask[1, :6] = 0, 0
    together = generate(model, ids, attention_mask=mask)
    assert torch.equal(together[1, 6:], generate(model, ids[1:, 6:], attention_mask=mask[1:, 6:])[0])


def test_the_tree_matters_to_what_is_generated():
    model = small_model(tree_scale=1.0)
    assert not torch.equal(
        generate(model, rows(3, 14)), generate(model, rows(3, 14), context_len=torch.zeros(3).long())
    )


@pytest.mark.parametrize("rule", ["next", "own"])
@pytest.mark.parametrize("pieces", [[1] * 9, [4, 1, 4], [9]], ids=str)
def test_a_cache_can_be_continued_by_any_number_of_tokens(pieces, rule):
    model = small_model(tree_decay=rule)
    ids = rows(2, 16)
    cache = DynamicCache(config=model.config)
    logits = [model(ids[:, :7], cache_params=cache, use_cache=True).logits]
    for piece in ids[:, 7:].split(pieces, dim=1):
        logits.append(model(piece, cache_params=cache, use_cache=True).logits)
    assert_close(torch.cat(logits, 1), model(ids, context_len=7).logits, tolerance=1e-6)


def test_a_given_cache_is_not_ignored():
    model = small_model()
    ids = rows(2, 9)
    cache = model(ids[:, :8]).cache_params
    last = model(ids[:, 8:], cache_params=cache, use_cache=False).logits
    assert_close(last, model(ids, context_len=8).logits[:, 8:], tolerance=1e-6)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_prompts_shorter_than_the_convolution(length):
    model = small_model()
    assert torch.equal(generate(model, rows(2, length)), generate(model, rows(2, length), use_cache=False))


def test_padding_on_the_right_is_refused():
    model = small_model()
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    with pytest.raises(ValueError, match="pad on the left"):
        generate(model, rows(2, 3), attention_mask=mask)
    assert model(rows(2, 3), mask).cache_params is None
    assert model(rows(2, 3)).cache_params is not None
