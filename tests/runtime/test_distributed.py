"""Two processes that each take half of the batch train as one process does."""

import json

import pytest
import runs

MODELS = {
    # The models have no batch norm, because its statistics come from one process's images. They have no Gumbel noise,
    # because it is drawn per batch.
    "efficientnet": ("resnet/resnet18_digits.py", "model.backbone.name=test_efficientnet_gn"),
    "quadmamba": ("quadmamba/quadmamba-nano_digits.py", *runs.TINY, "model.backbone.choice=3"),
}
# These augmentations are drawn per sample. Mixup is off because it pairs the images of one process.
RANDOM_SAMPLES = (
    "train_dataloader.dataset.transform.random_erasing=0.5",
    "train_dataloader.dataset.transform.hflip=0.5",
)
# Averaging the gradients of the halves adds them up in another order. The float32 rounding grows over 12 updates.
TOLERANCE = 1e-4


def curves(folder):
    return json.loads((folder / "curves.json").read_text())


@pytest.mark.parametrize("model", MODELS)
def test_two_processes_follow_one(model, tmp_path):
    name, *options = (*MODELS[model], *RANDOM_SAMPLES)
    # The 359 validation images do not divide by two. The image that pads them must not count.
    options.append("val_dataloader.num_batch_per_epoch=None")
    runs.call(runs.train, tmp_path / "one.log", name, tmp_path / "one", *options)
    # A run trains on a slice of batches x batch size x processes samples. Two half batches make the same slice.
    half, port = [*options, "train_dataloader.batch_size=4"], runs.free_port()
    logs = [tmp_path / f"rank{rank}.log" for rank in range(2)]
    ranks = [
        runs.start(runs.train_distributed, log, name, tmp_path / "two", rank, 2, port, *half)
        for rank, log in enumerate(logs)
    ]
    for process, log in zip(ranks, logs, strict=True):
        runs.finish(process, log)
    one, two = curves(tmp_path / "one"), curves(tmp_path / "two")
    losses = [[p["loss"] for p in c["train"]] for c in (one, two)]
    assert len(losses[0]) == 12
    assert losses[1] == pytest.approx(losses[0], rel=TOLERANCE)
    states = [runs.last_state(tmp_path / n)["state_dict"] for n in ("one", "two")]
    for key, expected in states[0].items():
        if expected.is_floating_point():
            error = (states[1][key] - expected).norm() / expected.norm().clamp_min(1e-3)
            assert error < TOLERANCE, f"{key}: {error:.1e}"
    assert [p["top1"] for p in two["val"]] == [p["top1"] for p in one["val"]]
    assert two["val"][-1].keys() >= {"precision", "recall", "f1", "ece"}
    files = [(tmp_path / name / "evaluation" / "val_confusion.csv").read_text() for name in ("one", "two")]
    assert files[0] == files[1]
