"""Tests of the evaluator: every sample counts once, in any number of processes, unless it could not be read."""

import json
import os

import pytest
import runs
import torch

from ssm_core.errors import ConfigError
from ssm_train.runtime.evaluator import ReadableEvaluator
from ssm_train.tasks.classification.metrics import Accuracy

# Nine images of two classes. Image 2 could not be read. Image 0 alone is predicted wrongly.
SIZE, UNREADABLE = 9, 2


def sample(index):
    label = index % 2
    predicted = 1 - label if index == 0 else label
    return {
        "scores": torch.eye(2)[predicted],
        "probabilities": torch.eye(2)[predicted].softmax(0),
        "label": torch.tensor(label),
        "index": index,
        "unreadable": "cut.png" if index == UNREADABLE else "",
    }


def evaluated(indices, size=SIZE):
    evaluator = ReadableEvaluator(Accuracy(topk=(1,)))
    evaluator.dataset_meta = {"classes": ["a", "b"]}
    evaluator.size = size
    for index in indices:
        evaluator.process([sample(index)])
    metrics = evaluator.evaluate(size)
    return metrics, evaluator.metrics[0].report


def in_two(rank, port, out):
    """Evaluate a half, filled up with the first image as mmengine's sampler does, and write what rank 0 knows."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    metrics, report = evaluated([[0, 2, 4, 6, 8], [1, 3, 5, 7, 0]][rank])
    if rank == 0:
        out.write_text(json.dumps([metrics, report.confusion.tolist()]))
    torch.distributed.destroy_process_group()


def test_two_metrics_of_the_same_names_are_refused_and_prefixes_tell_them_apart():
    with pytest.raises(ConfigError, match=r"two metrics Accuracy .* own prefix"):
        ReadableEvaluator([Accuracy(topk=(1,)), dict(type="ssm_train.Accuracy", topk=(5,))])
    evaluator = ReadableEvaluator([Accuracy(topk=(1,)), Accuracy(topk=(1,), bins=3, prefix="coarse")])
    evaluator.dataset_meta, evaluator.size = {"classes": ["a", "b"]}, SIZE
    for index in range(SIZE):
        evaluator.process([sample(index)])
    metrics = evaluator.evaluate(SIZE)
    assert metrics["top1"] == metrics["coarse/top1"] == 87.5
    assert {name for name in metrics if "/" not in name} == {name[7:] for name in metrics if "/" in name}


def test_one_process():
    metrics, report = evaluated(range(SIZE))
    assert metrics["top1"] == 100 * 7 / 8
    assert report.confusion.tolist() == [[3, 1], [0, 4]]


def test_images_that_fill_the_last_batch_do_not_count(tmp_path):
    port, out = runs.free_port(), tmp_path / "found.json"
    logs = [tmp_path / f"{rank}.log" for rank in range(2)]
    for process, log in [(runs.start(in_two, log, rank, port, out), log) for rank, log in enumerate(logs)]:
        runs.finish(process, log)
    metrics, report = evaluated(range(SIZE))
    assert json.loads(out.read_text()) == [metrics, report.confusion.tolist()]
    assert "1 of 9 images could not be used and are not in the metrics" in logs[0].read_text()
