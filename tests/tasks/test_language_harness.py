"""lm-evaluation-harness scores and continues requests as the network itself does when it is told the prompts."""

import copy
import sys

import lm_eval.tasks
import pytest
import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from small_language import text_and_rows

from ssm_core.errors import ConfigError
from ssm_train.tasks.language.evaluation import TASKS, Harness
from ssm_train.tasks.language.harness import MambaTreeLM
from tree_ssm.language import load_network, load_tokenizer

PAIRS = [
    ("Say one and two. The answer is", " one and two."),
    ("Say three", " three"),
    ("", "one and"),
    ("ten" + " ten" * 80, " ten"),
]


@pytest.fixture(scope="module")
def network(lm_folder):
    network = load_network(str(lm_folder / "pretrained"), tree_scale=2.0).eval()
    with torch.no_grad():  # long steps make the prompt matter
        for layer in network.backbone.layers:
            layer.mixer.dt_proj.bias.zero_()
            layer.mixer.in_proj.weight.mul_(30)
            layer.mixer.x_proj.weight.mul_(10)
    return network


@pytest.fixture(scope="module")
def tokenizer(lm_folder):
    return load_tokenizer(str(lm_folder / "pretrained"))


def instances(kind, arguments):
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


def test_it_is_registered():
    assert get_model("mambatree_l") is MambaTreeLM


def test_loglikelihood_with_each_requests_prompt(network, tokenizer):
    model = MambaTreeLM(network, tokenizer, batch_size=3, max_length=64)
    results = model.loglikelihood(instances("loglikelihood", PAIRS), disable_tqdm=True)
    chain = MambaTreeLM(load_like(network, 0.0), tokenizer).loglikelihood(
        instances("loglikelihood", PAIRS), disable_tqdm=True
    )
    for (context, continuation), (value, greedy), (other, _) in zip(PAIRS, results, chain, strict=True):
        prompt = tokenizer.encode(context) if context else [tokenizer.eos_token_id]
        both = tokenizer.encode(context + continuation)
        target = both[len(prompt) :] if context else both
        row = (prompt + target)[-65:]
        split = len(row) - len(target)
        log_p = network(torch.tensor([row[:-1]]), context_len=split).logits[0, split - 1 :].log_softmax(-1)
        expected = float(log_p[range(len(target)), target].sum().detach())
        assert value == pytest.approx(expected, rel=1e-4)
        assert greedy == (log_p.argmax(-1).tolist() == target)
        assert value != pytest.approx(other, rel=1e-4)


def load_like(network, tree_scale):
    twin = copy.deepcopy(network)
    twin.config.tree_scale = tree_scale
    for layer in twin.backbone.layers:
        layer.mixer.config.tree_scale = tree_scale
    return twin


def test_rolling_likelihood_has_no_prompt(network, tokenizer):
    text = text_and_rows()[0][:300]
    model = MambaTreeLM(network, tokenizer, max_length=1000)
    (value,) = model.loglikelihood_rolling(instances("loglikelihood_rolling", [(text,)]))
    ids = [tokenizer.eos_token_id, *tokenizer.encode(text)]
    log_p = network(torch.tensor([ids[:-1]]), context_len=0).logits[0].log_softmax(-1)
    assert value == pytest.approx(float(log_p[range(len(ids) - 1), ids[1:]].sum().detach()), rel=1e-4)


def test_generate_until(network, tokenizer):
    model = MambaTreeLM(network, tokenizer, batch_size=2)
    options = {"until": [], "max_gen_toks": 8, "do_sample": False, "temperature": 0.0}
    contexts = [context for context, _ in PAIRS if context]
    texts = model.generate_until(instances("generate_until", [(c, options) for c in contexts]))
    for context, text in zip(contexts, texts, strict=True):
        ids = torch.tensor([tokenizer.encode(context)])
        out = network.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=tokenizer.eos_token_id)
        assert text == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    stop = texts[0][2:4]
    (cut,) = model.generate_until(instances("generate_until", [(contexts[0], options | {"until": [stop]})]))
    assert cut == texts[0].split(stop)[0]


def test_the_local_task(network, tokenizer, lm_folder):
    harness = Harness(["response_choice"], path=str(lm_folder / "rows.json"), batch_size=3)
    figures = harness(network, tokenizer)
    assert set(figures) == {"response_choice/acc", "response_choice/acc_norm"}
    assert all(4 * value in range(5) for value in figures.values())
    assert Harness()(network, tokenizer) == {}
    with pytest.raises(ConfigError, match="reads a local file of rows: set path to one, None is no file"):
        Harness(["response_choice"])(network, tokenizer)


@pytest.fixture
def few_tasks(monkeypatch):
    """Leave out the harness's own tasks, because listing them takes many seconds."""
    original = lm_eval.tasks.TaskManager
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", lambda **o: original(**o | {"include_defaults": False}))


@pytest.mark.usefixtures("few_tasks")
def test_an_unknown_task(network, tokenizer):
    with pytest.raises(ConfigError, match="has no task 'piqua'"):
        Harness(["piqua"])(network, tokenizer)


@pytest.mark.usefixtures("few_tasks")
def test_the_harnesss_own_command_line(lm_folder, monkeypatch, capsys):
    arguments = ["run", "--model", "mambatree_l", "--tasks", "response_choice", "--include_path", str(TASKS),
                 "--model_args", f"pretrained={lm_folder / 'pretrained'},tree_scale=0.3", "--limit", "2",
                 "--metadata", f'{{"path": "{lm_folder / "rows.json"}"}}', "--device", "cpu"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["lm_eval", *arguments])
    cli_evaluate()
    printed = capsys.readouterr().out
    assert "response_choice" in printed
    assert "acc_norm" in printed
