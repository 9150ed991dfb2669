"""Pictures of what a model is trained on: samples with their annotations, after the pipeline."""

from pathlib import Path
from typing import Literal

from mmengine.config import Config

from ssm_core.errors import ConfigError
from ssm_train.data.built import build_dataset
from ssm_train.data.classes import number_alike
from ssm_train.data.guarded import guarded
from ssm_train.runtime.building import building_in_scope
from ssm_train.runtime.files import check_folder
from ssm_train.runtime.reproducibility import SeededDataset
from ssm_train.tasks import task_of
from ssm_train.tasks.base import ImageTask


def browse(cfg: Config, split: Literal["train", "val", "test"], out: Path, count: int, seed: int = 0) -> list[Path]:
    """Write pictures of samples of a config's dataset, evenly spread over it, since files are sorted by class.

    Args:
        cfg: of any task. Rows of text are written as text.
        split: the data loader whose dataset is drawn.
        out: folder of the pictures. Their names are the numbers of the samples, such as ``0000.png``. Those of a
            classifier's images have the label in their names, too.
        count: how many samples are drawn at most.
        seed: seed of the augmentations.

    Returns:
        The files of the pictures.

    Raises:
        ConfigError: the config has no such dataset, or one that joins datasets of different classes.
        DataError: the dataset is missing, damaged or empty.
        WriteError: a picture cannot be written.
    """
    loader = cfg.get(f"{split}_dataloader")
    if not loader:
        raise ConfigError(f"the config has no {split}_dataloader")
    task = task_of(cfg)
    check_folder(out)
    with building_in_scope(task.scope):
        dataset = build_dataset(loader.dataset)
        if isinstance(task, ImageTask):
            number_alike(dataset, task.renumber_bare, f"the data of {split}_dataloader")
        samples = SeededDataset(guarded(dataset, loader.get("unreadable", "skip")), seed)
        drawn = min(count, len(dataset))
        numbers = [place * len(dataset) // drawn for place in range(drawn)]
        return [task.draw_sample(samples[i], dataset, loader.dataset, out / f"{i:04d}") for i in numbers]
