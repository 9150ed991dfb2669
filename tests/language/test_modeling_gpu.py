"""The model gives the same on the GPU as on the CPU: logits, gradients, generation, low precision."""

import pytest
import torch
import torch.nn.functional as F
from small_language import rows, small_model
from transformers.models.mamba.modeling_mamba import MambaRMSNorm

from ssm_core.testing import assert_as_good_as, assert_close, relative_error
from tree_ssm.language.context import find_prompts, prompt_edges

pytestmark = pytest.mark.gpu
DEVICE = "cuda"


def batch():
    ids, mask = rows(3, 40), torch.ones(3, 40, dtype=torch.int64)
    ids[1, 25:], mask[1, 25:] = 0, 0
    return ids, mask, torch.tensor([22, 25, 9])


@pytest.mark.parametrize("rule", ["next", "own"])
def test_logits_and_gradients(rule, monkeypatch):
    # transformers computes the norm, the residual and the loss in float32 for every dtype of the model. This test
    # computes them in the model's dtype.
    norm = lambda self, x: F.rms_norm(x, x.shape[-1:], self.weight, self.variance_epsilon)  # noqa: E731
    monkeypatch.setattr(MambaRMSNorm, "forward", norm)
    ids, mask, context = batch()
    labels = ids.masked_fill(mask == 0, -100)
    results = []
    for device in ("cpu", DEVICE):
        model = small_model(tree_decay=rule, residual_in_fp32=False).to(device).train()
        logits = model(*(t.to(device) for t in (ids, mask, context))).logits
        F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten().to(device)).backward()
        results.append((logits, {name: p.grad for name, p in model.named_parameters()}))
    assert_close(results[1][0], results[0][0], "logits", 1e-10)
    errors = {name: relative_error(results[1][1][name].cpu(), gradient) for name, gradient in results[0][1].items()}
    assert all(error < 1e-10 for error in errors.values()), errors


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_as_good_as_without_the_tree(dtype):
    ids, mask, context = (t.to(DEVICE) for t in batch())

    def errors(scale):
        with torch.no_grad():
            exact = small_model(tree_scale=scale).to(DEVICE)(ids, mask, context).logits
            model = small_model(torch.float32, tree_scale=scale).to(DEVICE)
            with torch.autocast(DEVICE, dtype):
                return model(ids, mask, context).logits.to(dtype), exact

    (tree, exact_tree), (chain, exact_chain) = errors(0.3), errors(0.0)
    # The tree adds no more error than the network without a tree has in the same dtype.
    assert_as_good_as(tree, (exact_tree + (chain.double() - exact_chain)).to(dtype), exact_tree)


def test_cached_equals_uncached():
    model = small_model().to(DEVICE)
    ids, mask = rows(3, 14).to(DEVICE), torch.ones(3, 14, dtype=torch.int64, device=DEVICE)
    ids[1, :5], mask[1, :5] = 0, 0
    options = dict(attention_mask=mask, max_new_tokens=12, do_sample=False, eos_token_id=None)
    assert torch.equal(model.generate(ids, **options), model.generate(ids, use_cache=False, **options))
    on_cpu = small_model().generate(ids.cpu(), **options | {"attention_mask": mask.cpu()})
    assert torch.equal(model.generate(ids, **options).cpu(), on_cpu)


def test_states_are_not_held():
    """A layer of Mamba-130M's size has 50 million states for 2,048 tokens. The forward pass never writes them all."""
    mixer = small_model(torch.float32, hidden_size=768, state_size=16, num_hidden_layers=1).backbone.layers[0].mixer
    mixer = mixer.to(DEVICE)
    states = 2048 * 1536 * 16 * 4
    hidden = torch.randn(1, 2048, 768, device=DEVICE, requires_grad=True)
    edges = prompt_edges(find_prompts((1, 2048), hidden.device, None, None, None), 2048, 3)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    y = mixer(hidden, candidates=edges)
    assert torch.cuda.max_memory_allocated() - before < states
    y.sum().backward()
    assert torch.cuda.max_memory_allocated() - before < 2 * states
