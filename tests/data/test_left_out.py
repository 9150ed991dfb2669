"""Tests that a training says which samples its epochs leave out."""

import pytest
from command_line import CONFIGS, run
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import BatchSampler, DataLoader

from ssm_train.data.workers import left_out
from ssm_train.runtime.reproducibility import make_reproducible


def loader(count, size, drop_last, sampler=DefaultSampler):
    data = range(count)
    made = DataLoader(data, batch_sampler=BatchSampler(sampler(data, seed=0), size, drop_last))
    return make_reproducible(made, 0, data)


@pytest.mark.parametrize(("count", "size"), [(10, 4), (11, 4), (12, 4), (4, 4), (9, 2)])
def test_the_number_is_that_of_the_samples_that_no_batch_has(count, size):
    given = sum(len(batch) for batch in loader(count, size, drop_last=True))
    words = left_out(loader(count, size, drop_last=True), 1)
    if given == count:
        assert words == ""
    else:
        assert words.startswith(f"an epoch leaves out {count - given} of {count} samples, since they do not fill a ")


def test_nothing_is_said_where_every_sample_comes():
    assert left_out(loader(10, 4, drop_last=False), 1) == ""
    assert left_out(loader(10, 4, drop_last=True, sampler=InfiniteSampler), 1) == ""


def test_every_process_leaves_out_as_many():
    assert left_out(loader(10, 4, drop_last=True), 2) == (
        "an epoch leaves out 4 of 20 samples, since they do not fill a batch of 4 for each process and "
        "train_dataloader.drop_last is True"
    )


@pytest.mark.parametrize(("options", "count"), [([], 1), (["train_dataloader.drop_last=False"], 0),
                                                (["train_dataloader.num_batch_per_epoch=2"], 0)])  # fmt: skip
def test_the_log_says_it_once(tmp_path, options, count):
    """1,438 digits are 44 batches of 32, and 30 more. A number of batches that the user chose leaves out nothing."""
    short = ["train_cfg.max_epochs=2", "model.backbone.name=test_efficientnet", "default_hooks.pictures.count=0"]
    short += ["val_dataloader.num_batch_per_epoch=1", "visualizer.tensorboard=False", "param_scheduler=[]"]
    digits = CONFIGS / "resnet" / "resnet18_digits.py"
    assert run("train", digits, "--work-dir", tmp_path, "--cfg-options", *short, *options) == 0
    log = next(tmp_path.rglob("*.log")).read_text()
    assert log.count("an epoch leaves out 30 of 1438 samples, since they do not fill a batch of 32 and") == count
    assert log.count("leaves out") == count
