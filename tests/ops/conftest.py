"""Fills uninitialised memory with NaN during every test of an operator, so that a kernel that skips an output fails."""

import os

import pytest
import torch

# Deterministic matrix products on a GPU need this before the first of them runs.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(autouse=True)
def poisoned_memory():
    torch.manual_seed(0)
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = filled
