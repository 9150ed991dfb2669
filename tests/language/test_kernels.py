"""Whose kernels compute the chain; a stand-in with mamba-ssm's interface, since that package needs a GPU to build."""

import sys
import types

import pytest
import torch
from small import rows, small_model

from ssm_core.ops import selective_scan
from ssm_core.testing import assert_close
from tree_ssm.language.kernels import resolve_chain_backend
from tree_ssm.language.scan import chain_from


@pytest.fixture
def calls(monkeypatch):
    """What is asked of ``mamba_ssm``, which hands it on to the reference."""
    seen = []

    def selective_scan_fn(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False,
                          return_last_state=False):  # fmt: skip
        seen.append(tuple(u.shape))
        assert u.is_contiguous()
        return selective_scan(
            u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, backend="reference"
        )

    interface = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = selective_scan_fn
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    return seen


def test_the_chain_through_mamba_ssm(calls):
    ids = rows(2, 13)
    expected = small_model()(ids, context_len=6).logits
    assert_close(small_model(chain_backend="mamba_ssm")(ids, context_len=6).logits, expected)
    # In each layer the chain, and the chain behind the prompt with its four tokens that bring the state.
    assert calls == [(2, 32, 13), (2, 32, 4 + 7)] * 2


def test_any_order_through_mamba_ssm(calls):
    torch.manual_seed(0)
    u, delta = torch.randn(2, 2, 4, 9, dtype=torch.float64).unbind(0)
    B, C = torch.randn(2, 2, 2, 3, 9, dtype=torch.float64).unbind(0)
    A = -torch.rand(4, 3, dtype=torch.float64)
    for options in ({}, {"reverse": [True, False]}, {"order": torch.randperm(9)}):
        y = [selective_scan(u, delta.exp(), A, B, C, backend=b, **options) for b in ("mamba_ssm", "reference")]
        assert_close(*y)
    assert len(calls) == 3


def test_its_kernel_serves_gpus_where_it_is_installed(calls, monkeypatch):
    from tree_ssm.language import kernels

    monkeypatch.setattr(kernels, "installed", lambda module: True)
    assert resolve_chain_backend("auto", torch.device("cuda")) == "mamba_ssm"
    assert resolve_chain_backend("auto", torch.device("cpu")) == "auto"
    assert resolve_chain_backend("reference", torch.device("cuda")) == "reference"
    monkeypatch.setattr(kernels, "installed", lambda module: False)
    assert resolve_chain_backend("auto", torch.device("cuda")) == "auto"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_chain_begins_with_any_state(dtype):
    torch.manual_seed(0)
    state, A = torch.randn(2, 5, 3, dtype=dtype), -torch.rand(5, 3, dtype=dtype) * 100
    x, delta = torch.randn(2, 7, 5, dtype=dtype), torch.rand(2, 7, 5, dtype=dtype)
    B, C = torch.randn(2, 2, 7, 3, dtype=dtype).unbind(0)
    arguments = [t.requires_grad_() for t in (state, x, delta, A, B, C)]
    y, last = chain_from(*arguments, backend="auto")
    h, outputs = state, []
    for t in range(7):
        h = torch.exp(delta[:, t, :, None] * A) * h + (delta[:, t] * x[:, t])[..., None] * B[:, t, None]
        outputs.append((h * C[:, t, None]).sum(-1))
    expected = torch.stack(outputs, 1)
    assert_close(y, expected)
    assert_close(last, h)
    loss = torch.randn_like(y)
    for a, e in zip(*(torch.autograd.grad((v * loss).sum(), arguments) for v in (y, expected)), strict=True):
        assert_close(a, e, tolerance=2e-5 if dtype == torch.float32 else 1e-11)
