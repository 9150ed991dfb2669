"""Whose kernels compute the chain; a stand-in with mamba-ssm's interface, since that package needs a GPU to build."""

import sys
import types

import pytest
import torch
from small import rows, small_model

from ssm_core.ops import selective_scan
from ssm_core.testing import assert_close
from tree_ssm.language.kernels import resolve_chain_backend


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
    assert calls == [(2, 32, 13)] * 2  # once in each layer


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
