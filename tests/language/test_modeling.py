"""Compares the model with the specification's dense sums and with plain Mamba, and tests which tokens affect which."""

import pytest
import torch
from oracles.language import mixer_output, parents, projections
from small_language import SIZE, rows, small_model
from transformers import MambaConfig, MambaForCausalLM

from ssm_core.testing import assert_close
from tree_ssm.language.context import find_prompts, grow_tree, prompt_edges


def plain_mamba(model):
    mamba = MambaForCausalLM(MambaConfig(**SIZE)).to(next(model.parameters()).dtype).eval()
    mamba.load_state_dict(model.state_dict())
    return mamba


def candidates(hidden, contexts):
    prompts = find_prompts(hidden.shape[:2], hidden.device, None, torch.tensor(contexts), None)
    return prompt_edges(prompts, hidden.shape[1], 3, branching=max(contexts) > 2)


@pytest.mark.parametrize("rule", ["next", "own"])
def test_mixer_is_the_dense_sum_over_the_tree(rule):
    mixer = small_model(tree_decay=rule).backbone.layers[0].mixer
    hidden = torch.randn(4, 11, 16, dtype=torch.float64)
    # In the last case no tree branches, so the chain's result serves for the tree, too.
    for contexts in ([11, 7, 1, 0], [6, 3, 1, 0], [2, 2, 1, 0]):
        actual = mixer(hidden, candidates=candidates(hidden, contexts))
        for row, context in enumerate(contexts):
            assert_close(actual[row], mixer_output(mixer, hidden[row], context, 0.3, rule), f"context {context}")


def test_gradients_are_those_of_the_dense_sum():
    mixer = small_model().backbone.layers[0].mixer.train()
    hidden = torch.randn(1, 9, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(9, 16, dtype=torch.float64)
    wanted = {"hidden": hidden, **dict(mixer.named_parameters())}
    outputs = mixer(hidden, candidates=candidates(hidden, [6]))[0], mixer_output(mixer, hidden[0], 6, 0.3)
    actual, expected = (torch.autograd.grad((y * weight).sum(), list(wanted.values())) for y in outputs)
    for name, a, e in zip(wanted, actual, expected, strict=True):
        assert_close(a, e, name)


def test_trees_are_kruskals():
    mixer = small_model().backbone.layers[0].mixer
    hidden = torch.randn(6, 23, 16, dtype=torch.float64)
    contexts = [23, 22, 9, 3, 2, 0]
    for row, context in enumerate(contexts):
        x, _, delta, _, B, _ = projections(mixer, hidden[row])
        u = (delta * x).unsqueeze(-1) * B.unsqueeze(1)
        dt = torch.log(torch.expm1(delta)) - mixer.dt_proj.bias
        tree = grow_tree(x[None], dt[None], mixer.dt_proj.bias, B[None], candidates(hidden[:1], [context]))
        assert tree.parent[0].tolist() == parents(u, context)
        if context <= 2:
            assert tree.parent[0].tolist() == [*range(1, 23), 22]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_a_tree_it_is_mamba(dtype):
    model = small_model(dtype, tree_scale=0.0)
    ids = rows(3, 19)
    assert_close(model(ids).logits, plain_mamba(model)(ids).logits, tolerance=2e-6)


def test_a_prompt_of_two_tokens_is_the_chain():
    # Without D the mixers' outputs are 1.3 times Mamba's. The factor is folded into Mamba's out_proj.
    model = small_model()
    for layer in model.backbone.layers:
        layer.mixer.D.data.zero_()
    mamba = plain_mamba(model)
    for layer in mamba.backbone.layers:
        layer.mixer.out_proj.weight.data.mul_(1.3)
    ids = rows(3, 19)
    for context in (0, 1, 2):
        assert_close(model(ids, context_len=context).logits, mamba(ids).logits, tolerance=2e-6)
    assert not torch.allclose(model(ids, context_len=9).logits, mamba(ids).logits.double(), rtol=1e-3)


@pytest.mark.parametrize("rule", ["next", "own"])
def test_a_response_token_reaches_nothing_before_it(rule):
    model = small_model(tree_decay=rule)
    ids = rows(1, 20)
    before = model(ids, context_len=8).logits
    for place in range(8, 20):
        other = ids.clone()
        other[0, place] = (other[0, place] + 7) % 50 + 2
        after = model(other, context_len=8).logits
        assert torch.equal(after[:, :place], before[:, :place])
        assert not torch.equal(after[:, place:], before[:, place:])


@pytest.mark.parametrize("rule", ["next", "own"])
def test_what_a_token_is_heard_by(rule):
    """A token affects itself, its ancestors in the tree, and the tokens after it along the chain.

    The gradients of every output show which inputs it depends on.
    """
    mixer = small_model(tree_decay=rule).backbone.layers[0].mixer
    with torch.no_grad():
        mixer.conv1d.weight[..., :-1] = 0  # the convolution mixes no token with earlier ones
    torch.manual_seed(3)
    hidden = torch.randn(1, 16, 16, dtype=torch.float64, requires_grad=True)
    x, _, delta, _, B, _ = projections(mixer, hidden[0])
    parent = parents((delta * x).unsqueeze(-1) * B.unsqueeze(1), 12)

    def ancestors(t):
        found = set()
        while parent[t] != t:
            t = parent[t]
            found.add(t)
        return found

    y = mixer(hidden, candidates=candidates(hidden, [12]))[0]
    weight = torch.randn_like(y[0])
    gradients = [torch.autograd.grad(out @ weight, hidden, retain_graph=True)[0][0] for out in y]
    heard = torch.stack([gradient.abs().sum(1) > 0 for gradient in gradients])  # [output, input]
    backwards = 0
    for place in range(16):
        expected = set(range(place, 16)) | ancestors(place)
        if rule == "next" and place > 0:
            expected |= ancestors(place - 1)  # the edge above the token before it decays by its step size
        assert set(heard[:, place].nonzero().flatten().tolist()) == expected, f"token {place}"
        backwards += min(ancestors(place), default=place) < place
    assert backwards > 0, "no token is heard by an earlier one: the test says nothing"


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_padded_rows_are_those_alone(side):
    model = small_model(use_bias=True)
    lengths, contexts = [13, 9, 5, 1], [8, 9, 2, 1]
    padded, mask = torch.zeros(4, 15, dtype=torch.int64), torch.zeros(4, 15, dtype=torch.int64)
    alone = [rows(1, n, seed=n) for n in lengths]
    places = []
    for row, n in enumerate(lengths):
        begin = {"left": 15 - n, "right": 0, "both": (15 - n) // 2}[side]
        places.append(slice(begin, begin + n))
        padded[row, places[-1]] = alone[row][0]
        mask[row, places[-1]] = 1
    logits = model(padded, mask, torch.tensor(contexts), use_cache=False).logits
    whole = model(padded, mask).logits
    for row, place in enumerate(places):
        assert_close(logits[row, place], model(alone[row], context_len=contexts[row]).logits[0], f"row {row}", 1e-6)
        assert_close(whole[row, place], model(alone[row]).logits[0], f"row {row}, all prompt", 1e-6)


def test_losses_are_taken_on_responses_only():
    model = small_model()
    ids = rows(2, 12)
    labels = ids.masked_fill(torch.arange(12) < torch.tensor([[5], [3]]), -100)
    expected = model(ids, context_len=torch.tensor([5, 3]), labels=labels)
    # The model finds prompts by the labels, and leaves out labels within prompts.
    assert torch.equal(model(ids, labels=labels).logits, expected.logits)
    assert torch.equal(model(ids, context_len=torch.tensor([5, 3]), labels=ids).loss, expected.loss)
    log_p = expected.logits.log_softmax(-1)
    nll = [-log_p[r, t - 1, ids[r, t]] for r, start in enumerate((5, 3)) for t in range(start, 12)]
    assert_close(expected.loss, torch.stack(nll).mean().float(), tolerance=1e-6)


def test_hidden_states_are_mambas():
    model = small_model(tree_scale=0.0)
    ids = rows(2, 9)
    actual = model(ids, output_hidden_states=True).hidden_states
    expected = plain_mamba(model)(ids, output_hidden_states=True).hidden_states
    assert len(actual) == len(expected) == 3
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, tolerance=2e-6)


def test_pretraining_labels_make_it_causal():
    model = small_model()
    ids = rows(1, 12)
    assert torch.equal(model(ids, labels=ids).logits, model(ids, context_len=0).logits)


def test_checkpointing_changes_nothing():
    ids = rows(2, 12)
    gradients = []
    for enable in (False, True):
        model = small_model().train()
        if enable:
            model.gradient_checkpointing_enable()
        model(ids, context_len=6, labels=ids).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert all(g is not None for g in gradients[0].values())
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_a_layer_compiles_without_a_break():
    layer = small_model().backbone.layers[0].train()
    hidden = torch.randn(2, 13, 16, dtype=torch.float64)
    results = []
    for run in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        layer.zero_grad()
        y = run(hidden, candidates=candidates(hidden, [9, 4]))
        y.square().sum().backward()
        results.append((y, [p.grad.clone() for p in layer.parameters()]))
    assert_close(results[1][0], results[0][0])
    for actual, expected in zip(results[1][1], results[0][1], strict=True):
        assert_close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision(dtype):
    model = small_model(torch.float32)
    ids = rows(2, 24)
    expected = model(ids, context_len=20).logits
    with torch.autocast("cpu", dtype):
        mixed = model(ids, context_len=20, labels=ids)
    mixed.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert_close(mixed.logits, expected, tolerance=0.05)
    assert_close(model.to(dtype)(ids, context_len=20).logits, expected, tolerance=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(context_len=13), r"between 0 and the row's number of tokens, got 13 for row 0 of 12"),
        (dict(context_len=torch.tensor([1, -1])), r"got -1 for row 1 of 12"),
        (dict(context_len=torch.tensor([1])), r"integers \[B\], B = 2, got torch.int64 \(1,\)"),
        (dict(context_len=torch.tensor([1.0, 2.0])), "must be an integer"),
        (dict(attention_mask=torch.ones(2, 5)), r"attention_mask must be \[B, L\] = \(2, 12\)"),
        (dict(inputs_embeds=torch.ones(2, 12, 16)), "either input_ids or inputs_embeds"),
    ],
)
def test_errors_about_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        small_model()(rows(2, 12), **arguments)


def test_errors_about_what_would_bypass_the_tree():
    with pytest.raises(ValueError, match="use_mambapy=True asks for a scan that knows no tree"):
        small_model(use_mambapy=True)
    model = small_model()
    model.backbone.layers[1].mixer = plain_mamba(model).backbone.layers[1].mixer
    with pytest.raises(ValueError, match="the mixer of layer 1 has been replaced by a MambaMixer, which would bypass"):
        model(rows(1, 5))
    with pytest.raises(ValueError, match="prefill_chunk_size would cut the prompt"):
        small_model().generate(rows(1, 5), max_new_tokens=2, prefill_chunk_size=2)
