"""Tests which package's kernels compute the chain and the convolution, and that all give what the model defines."""

import sys

import pytest
import torch
from oracles import mamba_interface
from small_language import SIZE, rows, small_model
from transformers import MambaConfig, MambaForCausalLM

from ssm_core.testing import assert_close
from tree_ssm.language import kernels
from tree_ssm.language.kernels import causal_convolution, continued_convolution, installed, resolve_chain_backend

PACKAGE = "mamba_ssm.ops.selective_scan_interface"


@pytest.fixture
def documented(monkeypatch):
    """Replace mamba-ssm, which needs a GPU to be built, by a module with its documented interface."""
    monkeypatch.setitem(sys.modules, PACKAGE, mamba_interface)


def plain_mamba(model):
    """Return transformers' own Mamba with the same weights."""
    mamba = MambaForCausalLM(MambaConfig(**SIZE)).eval()
    mamba.load_state_dict(model.state_dict())
    return mamba


@pytest.mark.usefixtures("documented")
def test_the_chain_through_mamba_ssm_is_transformers_mamba():
    model = small_model(torch.float32, tree_scale=0.0, chain_backend="mamba_ssm")
    ids = rows(2, 13)
    assert_close(model(ids, context_len=6).logits, plain_mamba(model)(ids).logits, tolerance=2e-6)


@pytest.mark.usefixtures("documented")
def test_with_a_tree_mamba_ssm_computes_what_our_kernel_does():
    ids = rows(2, 13)
    ours, theirs = (small_model(torch.float32, chain_backend=backend) for backend in ("auto", "mamba_ssm"))
    expected = ours(ids, context_len=6, labels=ids)
    actual = theirs(ids, context_len=6, labels=ids)
    assert_close(actual.logits, expected.logits, tolerance=2e-6)
    for result in (actual, expected):
        result.loss.backward()
    gradients = [{name: p.grad for name, p in model.named_parameters()} for model in (theirs, ours)]
    for name, expected_gradient in gradients[1].items():
        assert_close(gradients[0][name], expected_gradient, name, tolerance=1e-5)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    with pytest.raises(ImportError, match="backend 'mamba_ssm' needs the mamba-ssm package"):
        small_model(torch.float32, chain_backend="mamba_ssm")(rows(1, 5))


@pytest.fixture
def fresh_answers():
    """Clear the cache of ``installed`` before and after the test."""
    installed.cache_clear()
    yield
    installed.cache_clear()


@pytest.mark.usefixtures("documented", "fresh_answers")
def test_its_kernel_serves_gpus_where_it_is_installed():
    assert resolve_chain_backend("auto", torch.device("cuda")) == "mamba_ssm"
    assert resolve_chain_backend("auto", torch.device("cpu")) == "auto"
    assert resolve_chain_backend("reference", torch.device("cuda")) == "reference"


@pytest.mark.usefixtures("fresh_answers")
def test_our_kernel_serves_gpus_where_it_is_not(monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    assert not installed(PACKAGE)
    assert resolve_chain_backend("auto", torch.device("cuda")) == "auto"
    assert resolve_chain_backend("mamba_ssm", torch.device("cuda")) == "mamba_ssm"


@pytest.mark.usefixtures("fresh_answers")
def test_a_package_built_for_another_torch_is_not_installed(tmp_path, monkeypatch):
    (tmp_path / "built_for_another_torch.py").write_text("raise OSError('undefined symbol')")
    monkeypatch.syspath_prepend(tmp_path)
    assert not installed("built_for_another_torch")
    assert installed("torch")


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_the_convolution_by_hand(activation):
    conv = torch.nn.Conv1d(6, 6, 4, groups=6, padding=3).double()
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    act = {"silu": torch.nn.functional.silu, "gelu": torch.nn.functional.gelu}[activation]
    padded = torch.cat([x.new_zeros(2, 3, 6), x], 1)
    weight = conv.weight[:, 0]  # [D, K]
    expected = [(padded[:, t : t + 4] * weight.T).sum(1) + conv.bias for t in range(9)]
    expected = act(torch.stack(expected, 1))
    y = kernels.causal_convolution(x, conv, activation)
    assert y.is_contiguous()
    assert_close(y, expected)
    window = padded[:, 4:].transpose(1, 2)  # the last five tokens and three before
    assert_close(continued_convolution(window, conv, activation), expected[:, 4:])


@pytest.mark.gpu
@pytest.mark.needs("causal_conv1d")
@pytest.mark.parametrize("bias", [True, False])
def test_the_packages_convolution_is_ours(bias):
    conv = torch.nn.Conv1d(16, 16, 4, groups=16, padding=3, bias=bias)
    x = torch.randn(2, 9, 16)
    assert_close(causal_convolution(x.cuda(), conv.cuda(), "silu"), causal_convolution(x, conv.cpu(), "silu"))
