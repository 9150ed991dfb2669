"""Batches of images."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import default_collate

from ssm_core.errors import ConfigError
from ssm_train.registry import FUNCTIONS


@FUNCTIONS.register_module()
def collate_images(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack samples; of ``unreadable`` only what says something is kept, under the sample's place in the batch.

    A list with a text for every image would cost more time to pin and to move to the device than the images.
    """
    batch = default_collate(
        [{**sample, "data_samples": _without_problem(sample["data_samples"])} for sample in samples]
    )
    problems = (sample["data_samples"]["unreadable"] for sample in samples)
    batch["data_samples"]["unreadable"] = {place: problem for place, problem in enumerate(problems) if problem}
    return batch


def problems_of(
    data_samples: Mapping[str, Any],
) -> Mapping[int, str]:
    """What was unreadable in a batch: the place of a replaced sample, and what was wrong with it.

    Raises:
        ConfigError: the batch is from another function.
    """
    problems = data_samples["unreadable"]
    if not isinstance(problems, Mapping):
        raise ConfigError('a data loader of images needs collate_fn=dict(type="ssm_train.collate_images")')
    return problems


def _without_problem(data_sample: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data_sample.items() if key != "unreadable"}
