"""Test-time augmentation: pipelines that make several versions of an image, for tasks with pipelines of mmcv's kind."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config

from ssm_core.errors import ConfigError
from ssm_train.data.loading import ANNOTATIONS
from ssm_train.data.wrapper import bare_datasets

RATIOS = (1.0, 0.75, 1.25)  # sizes of the versions, by that of the test
_STEP = 32  # sides of images of a fixed size stay multiples of it, in pixels
_META = ("flip", "flip_direction")  # what a sample has to tell, so that its prediction can be flipped back


def name_of(step: Mapping[str, Any]) -> str:
    """The name of a step of a pipeline, without the module or scope that it is from."""
    kind = step["type"]
    return kind.split(".")[-1] if isinstance(kind, str) else kind.__name__


def loads_image(step: Mapping[str, Any]) -> bool:
    """Whether a step reads the image of a sample."""
    return name_of(step).startswith("LoadImage")


def is_annotations(step: Mapping[str, Any]) -> bool:
    """Whether a step loads annotations."""
    return name_of(step).startswith(ANNOTATIONS)


def is_pack(step: Mapping[str, Any]) -> bool:
    """Whether a step makes the sample that a model takes."""
    return name_of(step).startswith("Pack")


def without_annotations(steps: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The steps of a pipeline without those that load annotations, also within ``TestTimeAug``."""
    kept = []
    for step in steps:
        if is_annotations(step):
            continue
        if name_of(step) == "TestTimeAug":
            groups = [without_annotations(group) for group in step["transforms"]]
            step = {**step, "transforms": [group for group in groups if group]}
        kept.append(step)
    return kept


def flips_of(cfg: Config, known: Sequence[str]) -> list[str]:
    """The directions in which the training of a config flips images; horizontal if it trains nothing.

    An object that is never seen upside down in training is not looked for upside down in a test.

    Args:
        cfg: the config.
        known: directions that the task can flip back.
    """
    steps = bare_datasets((cfg.get("train_dataloader") or {}).get("dataset", {}))[0].get("pipeline")
    if steps is None:
        return ["horizontal"]
    found: list[str] = []
    for step in steps:
        if name_of(step) == "RandomFlip":
            chance, directions = step.get("prob", 0), step.get("direction", "horizontal")
            directions = [directions] if isinstance(directions, str) else directions
            chances = chance if isinstance(chance, list | tuple) else [chance] * len(directions)
            found += [d for d, share in zip(directions, chances, strict=False) if share and d in known]
    return list(dict.fromkeys(found))


def augmented_pipeline(
    steps: Sequence[Mapping[str, Any]], flips: Sequence[str], ratios: Sequence[float] = RATIOS
) -> list[dict[str, Any]]:
    """A test pipeline that makes several versions of every image: as it is and flipped, in several sizes.

    The first version is the one that the given pipeline makes. Images are flipped before they are resized, because a
    resized image may have padding at its right and bottom. Annotations are loaded afterwards, so that they stay those
    of the file.

    Args:
        steps: the test pipeline. It begins with the step that reads the image.
        flips: directions.
        ratios: factors of the sizes, the first of which is 1.

    Raises:
        ConfigError: the pipeline does not read an image in its first step.
    """
    if not steps or not loads_image(steps[0]):
        raise ConfigError(
            "the test pipeline does not begin with a step that reads images: write a tta_pipeline into the config"
        )
    rest = list(steps[1:])
    resizes = next((step for step in rest if _is_resize(step)), None)
    others = [step for step in rest if step is not resizes]
    sizes = [_resized(resizes, ratio) for ratio in ratios]
    flipped = [{"type": "RandomFlip", "prob": 0.0}]
    flipped += [{"type": "RandomFlip", "prob": 1.0, "direction": direction} for direction in flips]
    groups = [flipped, sizes, *([_with_flips_in_meta(step)] for step in others)]
    return [dict(steps[0]), {"type": "TestTimeAug", "transforms": groups}]


def _is_resize(step: Mapping[str, Any]) -> bool:
    return bool({"scale", "scale_factor", "size"} & set(step)) and not (is_pack(step) or name_of(step) == "Pad")


def _resized(step: Mapping[str, Any] | None, ratio: float) -> dict[str, Any]:
    if step is None:
        return {"type": "Resize", "scale_factor": ratio, "keep_ratio": True}
    if step.get("size") is not None:
        return {**step, "size": tuple(max(round(side * ratio / _STEP), 1) * _STEP if ratio != 1 else side
                                      for side in step["size"])}  # fmt: skip
    if step.get("scale") is not None:
        return {**step, "scale": tuple(round(side * ratio) for side in step["scale"])}
    return {**step, "scale_factor": step["scale_factor"] * ratio}


def _with_flips_in_meta(step: Mapping[str, Any]) -> dict[str, Any]:
    if not is_pack(step) or "meta_keys" not in step:
        return dict(step)
    return {**step, "meta_keys": tuple(dict.fromkeys((*step["meta_keys"], *_META)))}
