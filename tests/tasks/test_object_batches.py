"""Compares batches of annotated images as one tensor with what mmdet makes of single images."""

import copy

import numpy as np
import pytest
import torch
from both_detectors import SETTINGS, loaded, pair
from mmengine.dataset import pseudo_collate

from ssm_core.errors import ConfigError
from ssm_train.data.collate import split_batch
from ssm_train.tasks.detection import AnyDetDataPreprocessor, stack_objects


@pytest.mark.parametrize("masks", [True, False])
def test_stacked_batch_is_that_of_mmdet(masks):
    preprocessor = AnyDetDataPreprocessor(**SETTINGS)
    wanted = preprocessor(pseudo_collate(loaded(masks)), True)
    found = preprocessor(stack_objects(loaded(masks)), True)
    assert torch.equal(found["inputs"], wanted["inputs"])
    for ours, theirs in zip(found["data_samples"], wanted["data_samples"], strict=True):
        assert ours.metainfo == theirs.metainfo
        assert set(ours.gt_instances.keys()) == set(theirs.gt_instances.keys())
        assert torch.equal(ours.gt_instances.bboxes, theirs.gt_instances.bboxes)
        assert torch.equal(ours.gt_instances.labels, theirs.gt_instances.labels)
        assert len(ours.get("ignored_instances", ())) == len(theirs.ignored_instances)
        if masks:
            assert np.array_equal(ours.gt_instances.masks.masks, theirs.gt_instances.masks.masks)
            assert len(ours.gt_instances.masks) == len(theirs.gt_instances.masks)


def test_stacked_batch_is_split():
    batch = stack_objects(loaded())
    preprocessor = AnyDetDataPreprocessor(**SETTINGS)
    first, second = (preprocessor(part, True) for part in split_batch(batch, (1, 2)))
    assert [len(part["inputs"]) for part in (first, second)] == [1, 2]
    wanted = preprocessor(pseudo_collate(loaded()), True)["data_samples"]
    found = first["data_samples"] + second["data_samples"]
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(ours.gt_instances.bboxes, theirs.gt_instances.bboxes)
        assert np.array_equal(ours.gt_instances.masks.masks, theirs.gt_instances.masks.masks)


def test_batches_of_another_kind_are_left_to_mmengine():
    for change in ("float", "more"):
        samples = loaded()
        if change == "float":
            samples[1]["inputs"] = samples[1]["inputs"].float()
        else:
            samples[2]["data_samples"].gt_instances.more = torch.zeros(5)
        assert set(stack_objects(samples)) == {"inputs", "data_samples"}


def test_batches_are_padded_to_a_few_shapes():
    shapes = [(160, 320), (160, 192), (192, 160)]
    preprocessor = AnyDetDataPreprocessor(**SETTINGS, pad_shapes=shapes)
    assert preprocessor(stack_objects(loaded()), True)["inputs"].shape[2:] == (160, 192)
    plain = AnyDetDataPreprocessor(**SETTINGS)(stack_objects(loaded()), True)
    padded = preprocessor(stack_objects(loaded()), True)
    assert torch.equal(padded["inputs"][:, :, :128, :160], plain["inputs"])
    assert (padded["inputs"][:, :, 128:] == SETTINGS["pad_value"]).all()
    for ours, theirs in zip(padded["data_samples"], plain["data_samples"], strict=True):
        assert ours.pad_shape == theirs.pad_shape  # anchors beyond it are not trained on
        assert ours.gt_instances.masks.masks.shape[1:] == (160, 192)
    small = AnyDetDataPreprocessor(**SETTINGS, pad_shapes=[(64, 64)])
    assert small(stack_objects(loaded()), True)["inputs"].shape[2:] == (128, 160)
    large = AnyDetDataPreprocessor(**SETTINGS, pad_shapes=[(800, 1088)])
    assert large(stack_objects(loaded()), True)["inputs"].shape[2:] == (128, 160)
    for wrong in ([(160, 100)], [(160,)], [(0, 160)]):
        with pytest.raises(ConfigError, match="pad_shapes has"):
            AnyDetDataPreprocessor(**SETTINGS, pad_shapes=wrong)


def test_masks_on_the_device_train_mmdets_own_heads():
    ours, theirs = pair("mask-rcnn_fpn")
    batch = AnyDetDataPreprocessor(**SETTINGS)(stack_objects(loaded()), True)
    images = batch["inputs"].double()
    assert theirs.loss(images, copy.deepcopy(batch["data_samples"]))["loss_mask"] > 0
    assert ours.loss(images, batch["data_samples"])["loss_mask"] > 0
