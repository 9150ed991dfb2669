"""Pictures of what a model is trained on: samples after the pipeline, with their annotations."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, VISUALIZERS, DefaultScope
from mmengine.structures import BaseDataElement
from PIL import Image

from ssm_core.errors import ConfigError
from ssm_train.data.guarded import GuardedDataset
from ssm_train.data.transforms import to_pixels
from ssm_train.runtime.reproducibility import SeededDataset
from ssm_train.runtime.runner import building_from_config


def browse(cfg: Config, split: Literal["train", "val", "test"], out: Path, count: int, seed: int = 0) -> list[Path]:
    """Write a picture of each of the first samples of a config's dataset.

    Args:
        cfg: of any task.
        split: whose data loader's dataset.
        out: folder of the pictures, ``0000.png`` and so on; of classified images the label is in the name too.
        count: how many.
        seed: of the augmentations.

    Returns:
        The pictures.

    Raises:
        ConfigError: the config has no such dataset.
        DataError: the dataset is missing or damaged.
    """
    loader = cfg.get(f"{split}_dataloader")
    if not loader:
        raise ConfigError(f"the config has no {split}_dataloader")
    out.mkdir(parents=True, exist_ok=True)
    scope = cfg.get("default_scope", "ssm_train")
    with DefaultScope.overwrite_default_scope(scope), building_from_config():
        dataset = DATASETS.build(loader.dataset)
        if scope == "ssm_train":
            samples = SeededDataset(dataset, seed)
            return [_write_classified(samples[i], loader.dataset, out, i) for i in range(min(count, len(dataset)))]
        settings = {**cfg.visualizer, "tensorboard": False, "wandb": False, "name": f"browse_{out}"}
        visualizer = VISUALIZERS.build(settings)
        visualizer.dataset_meta = dataset.metainfo
        samples = SeededDataset(GuardedDataset(dataset, loader.get("unreadable", "skip")), seed)
        return [_write_annotated(samples[i], visualizer, out, i) for i in range(min(count, len(dataset)))]


def _write_classified(sample: dict, dataset: Any, out: Path, number: int) -> Path:
    pixels = to_pixels(sample["inputs"], dataset.transform)
    path = out / f"{number:04d}_class{sample['data_samples']['label']}.png"
    Image.fromarray(pixels).save(path)
    return path


def _write_annotated(sample: dict, visualizer: Any, out: Path, number: int) -> Path:
    """Draw the boxes and masks, or the label map, that a sample has."""
    data_sample: BaseDataElement = sample["data_samples"].cpu()
    if "gt_instances" in data_sample:
        # The drawing takes plain arrays.
        objects = data_sample.gt_instances
        objects.bboxes = getattr(objects.bboxes, "tensor", objects.bboxes)
        if "masks" in objects:
            objects.masks = objects.masks.to_ndarray()
    rgb = np.ascontiguousarray(sample["inputs"].permute(1, 2, 0).numpy()[:, :, ::-1])
    path = out / f"{number:04d}.png"
    visualizer.add_datasample(path.stem, rgb, data_sample, draw_pred=False, out_file=str(path))
    return path
