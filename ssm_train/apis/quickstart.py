"""Small classifiers trained one after the other, with pictures of their curves and of what their scans chose."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS

# These register how the scans of their family are drawn.
import quadtree_ssm.visualization  # noqa: F401
import tree_ssm.visualization  # noqa: F401
from ssm_core.layers import record_scans
from ssm_core.visualization import Sheet, caption, draw_choice, show_image
from ssm_train.apis import cli
from ssm_train.apis.train import TrainingResult, train
from ssm_train.apis.visualize import write_figure
from ssm_train.runtime.building import building_in_scope
from ssm_train.runtime.config import changed, load_config
from ssm_train.runtime.curve_figures import draw_runs
from ssm_train.runtime.resuming import newest_good
from ssm_train.tasks import task_of

_LEAST_ROWS = 3  # of tokens: a block with fewer chooses nothing that is worth a picture


class Trained(NamedTuple):
    """A trained classifier.

    Attributes:
        name: what it is called in pictures.
        cfg: its config.
        result: what came of the run.
        seconds: how long the run took.
    """

    name: str
    cfg: Config
    result: TrainingResult
    seconds: float


class Scans(NamedTuple):
    """What a classifier's scans chose on a few test images.

    Attributes:
        name: of the classifier.
        pictures: ``[H, W]`` or ``[H, W, 3]`` each, 0 … 1: the images.
        chosen: the name of every drawn block to its choice, see :func:`ssm_core.layers.record_scans`.
    """

    name: str
    pictures: list[np.ndarray]
    chosen: dict[str, Any]


def quick_start(
    configs: Mapping[str, str | Path], work_dir: Path, classes: Sequence[int], say: Callable[[str], None] = cli.say
) -> list[Trained]:
    """Train classifiers, and draw ``curves.png`` and ``scans.png``.

    The first picture has the training loss and the test accuracy of all models. The second has a test image of each
    class, with what every block of every model chose on it.

    Args:
        configs: a name for each model to its config, see :func:`~ssm_train.runtime.config.load_config`. All are of one
            dataset.
        work_dir: where the pictures go. Each run has a folder below it, called by its name in lower case. A run
            that is there is overwritten.
        classes: of the drawn test images, the first of each class.
        say: gets a line with the name and the config before each run.

    Returns:
        The runs, in the order of the configs.

    Raises:
        UserError: a config, the data or the machine is not right; the message says what.
    """
    runs = []
    for name, config in configs.items():
        say(f"\n{name}: {config}")
        cfg = load_config(config)
        start = time.perf_counter()
        result = train(changed(cfg, {"work_dir": str(work_dir / name.lower())}), overwrite=True)
        runs.append(Trained(name, cfg, result, time.perf_counter() - start))
    curves = draw_runs({run.name: run.result.curves for run in runs}, ("loss", "top1"))
    write_figure(curves, work_dir / "curves.png")
    write_figure(draw_scans([scans_of(run, classes) for run in runs]), work_dir / "scans.png")
    return runs


def scans_of(run: Trained, classes: Sequence[int]) -> Scans:
    """What the scans of a run's newest checkpoint choose on the first test image of each class.

    Args:
        run: the run.
        classes: their labels.

    Raises:
        CheckpointError: the checkpoint does not fit the config.
        ValueError: there is no test image of a class.
    """
    task = task_of(run.cfg)
    model, _ = task.load(newest_good(run.result.work_dir, MMLogger.get_current_instance()))
    with building_in_scope(task.scope):
        dataset = DATASETS.build(run.cfg.test_dataloader.dataset)
    indices = [dataset.labels.index(label) for label in classes]
    images = torch.stack([dataset[i]["inputs"] for i in indices])
    with record_scans(model) as record, torch.no_grad():
        model(images)
    chosen = {name: choice for name, choice in record.items() if choice.height >= _LEAST_ROWS}
    return Scans(run.name, [np.asarray(dataset.load(i)) / 255 for i in indices], chosen)


def draw_scans(models: Sequence[Scans]) -> Figure:
    """A row for every image: the image, and what every block of every model chose on it."""
    count = len(models[0].pictures)
    columns = 1 + sum(len(scans.chosen) for scans in models)
    pictures = models[0].pictures
    sheet = Sheet(count, columns, pictures[0].shape, lines=[2])
    blocks = [(scans, block, choice) for scans in models for block, choice in scans.chosen.items()]
    for row in range(count):
        show_image(sheet.panel(row, 0), pictures[row], "image" if row == 0 else "")
        for column, (scans, block, choice) in enumerate(blocks, start=1):
            title = f"{scans.name}\n{caption(block)}" if row == 0 else ""
            draw_choice(choice, sheet.panel(row, column), scans.pictures[row], row, title)
    return sheet.figure
