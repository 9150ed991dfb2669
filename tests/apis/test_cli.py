"""Tests of what the command-line tools print when something is wrong."""

import pytest
from torch.utils.data import DataLoader, Dataset

from ssm_core.errors import DataError
from ssm_train.apis import cli


class Broken(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise DataError("cannot use the image x.jpg: the file is empty")


@pytest.mark.parametrize("workers", [0, 1])
def test_one_line_from_workers_too(capsys, workers):
    assert cli.run(lambda: list(DataLoader(Broken(), num_workers=workers))) == 1
    assert capsys.readouterr().err == "error: cannot use the image x.jpg: the file is empty\n"
