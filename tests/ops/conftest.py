"""Every test of an operator runs with uninitialised memory filled with NaN: a kernel that skips an output fails."""

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_memory():
    torch.manual_seed(0)
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = filled
