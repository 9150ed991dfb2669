"""Every tensor of a batch goes to the device, whatever its key, and a run fetches no batch that it does not use."""

from typing import NamedTuple

import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from ssm_train.runtime.batches import Batches, moved, tensors_in


class Pair(NamedTuple):
    one: torch.Tensor
    two: str


def batch():
    sample = BaseDataElement(metainfo={"img_path": "a.png"})
    sample.gt_instances = InstanceData(bboxes=torch.ones(2, 4), labels=torch.zeros(2))
    sample.gt_sem_seg = PixelData(data=torch.ones(1, 3, 3))
    return {
        "inputs": [torch.zeros(3, 4, 4)],
        "data_samples": [sample],
        "drawn": {"angles": torch.ones(2), "names": ("a", "b"), "pair": Pair(torch.ones(1), "c")},
        "none": None,
    }


def test_every_tensor_is_moved_and_all_else_stays():
    before, there = batch(), moved(batch(), torch.device("meta"))
    assert [t.device.type for t in tensors_in(there)] == ["meta"] * 6
    assert [t.shape for t in tensors_in(there)] == [t.shape for t in tensors_in(before)]
    assert there["drawn"]["names"] == ("a", "b")
    assert there["drawn"]["pair"].two == "c"
    assert there["none"] is None
    assert there["data_samples"][0].metainfo == before["data_samples"][0].metainfo
    assert {t.device.type for t in tensors_in(before)} == {"cpu"}


def test_no_batch_is_fetched_before_it_is_asked_for():
    fetched = []

    def load():
        for number in range(3):
            fetched.append(number)
            yield {"inputs": torch.tensor([number])}

    batches = Batches(load(), "cpu")
    assert fetched == []
    assert int(next(batches)["inputs"]) == 0
    assert fetched == [0]
    assert [int(item["inputs"]) for item in batches] == [1, 2]
    assert batches.waited >= 0
