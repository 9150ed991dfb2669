"""Whose kernels compute the plain parts of a mixer: the chain by mamba-ssm, the convolution by causal-conv1d."""

import sys

import pytest
import torch
from oracles import mamba_interface
from small_language import rows, small_model

from ssm_core.testing import assert_close
from tree_ssm.language import kernels
from tree_ssm.language.kernels import causal_convolution, installed, resolve_chain_backend


def test_the_chain_is_what_mamba_ssm_documents(monkeypatch):
    """The package's documented interface takes its place: it is called once in each layer, and the logits agree."""
    shapes = []

    class Recorded:
        @staticmethod
        def selective_scan_fn(u, *arguments, **options):
            assert u.is_contiguous()
            shapes.append(tuple(u.shape))
            return mamba_interface.selective_scan_fn(u, *arguments, **options)

    monkeypatch.setitem(sys.modules, "mamba_ssm.ops.selective_scan_interface", Recorded)
    ids = rows(2, 13)
    expected = small_model(torch.float32)(ids, context_len=6).logits
    logits = small_model(torch.float32, chain_backend="mamba_ssm")(ids, context_len=6).logits
    assert_close(logits, expected, tolerance=1e-5)
    assert shapes == [(2, 32, 13)] * 2


def test_mamba_ssm_serves_gpus_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(kernels, "installed", lambda module: True)
    assert resolve_chain_backend("auto", torch.device("cuda")) == "mamba_ssm"
    assert resolve_chain_backend("auto", torch.device("cpu")) == "auto"
    assert resolve_chain_backend("reference", torch.device("cuda")) == "reference"
    monkeypatch.setattr(kernels, "installed", lambda module: False)
    assert resolve_chain_backend("auto", torch.device("cuda")) == "auto"


def test_what_is_installed():
    assert installed("torch.utils.data")
    assert not installed("torch.utils.no_such_module")


@pytest.mark.gpu
@pytest.mark.needs("mamba_ssm")
def test_the_chain_through_the_package_itself():
    model = small_model(torch.float32).to("cuda")
    assert resolve_chain_backend(model.config.chain_backend, torch.device("cuda")) == "mamba_ssm"
    ids = rows(2, 60).to("cuda")
    expected = small_model(torch.float32, chain_backend="cuda").to("cuda")(ids, context_len=20).logits
    assert_close(model(ids, context_len=20).logits, expected, tolerance=1e-3)


@pytest.mark.gpu
@pytest.mark.needs("causal_conv1d")
@pytest.mark.parametrize("bias", [True, False])
def test_the_convolution_through_causal_conv1d(bias):
    conv = torch.nn.Conv1d(16, 16, 4, groups=16, padding=3, bias=bias).cuda()
    x = torch.randn(2, 30, 16, device="cuda")
    expected = causal_convolution(x.cpu(), conv.cpu(), "silu")
    assert_close(causal_convolution(x, conv.cuda(), "silu"), expected, tolerance=1e-3)
