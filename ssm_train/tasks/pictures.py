"""A hook for pictures during training: predictions for a few validation images, and what the scans chose on them."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from io import BytesIO
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image
from torch import Tensor, nn

import quadtree_ssm.visualization  # noqa: F401  registers how its scans are drawn
import tree_ssm.visualization  # noqa: F401  registers how its scans are drawn
from ssm_core.errors import DataError
from ssm_core.layers import record_scans
from ssm_core.visualization import caption, draw_choice, is_drawable, panels, save, show_image
from ssm_train.data.normalization import of_config, picture_of
from ssm_train.registry import HOOKS
from ssm_train.runtime.loops import is_shown
from ssm_train.tasks import image_task_of


@HOOKS.register_module()
class PicturesHook(Hook):
    """Passes pictures of the first validation images to the visualizer: ``prediction_0`` …, ``scans_0`` ….

    The picture of a prediction depends on the task. It shows the label and the likeliest classes, or predicted and
    annotated boxes and masks, or label maps. The last two are drawn only over images that are files. The pictures of
    the scans show the quadrants or the spanning trees of some blocks. Of images with many channels they show those that
    ``visualizer.bands`` names.

    Every backend gets the pictures: files in ``vis_data/vis_image``, TensorBoard, and Weights & Biases. They are made
    at the first, second, fourth, eighth … and last validation, because a long run would otherwise make too many.

    Args:
        count: number of images; 0 for none.
        blocks: number of scans that are drawn of an image, spread over the depth of the network; 0 for none. Scans of a
            compiled model are not drawn.
    """

    priority = "LOW"

    def __init__(self, count: int = 4, blocks: int = 6):
        self.count = count
        self.blocks = blocks
        self._shown = 0
        self._due = False
        self._told = False
        self._inputs: list[Tensor] = []
        self._scans: dict[str, Any] = {}
        self._listening = ExitStack()

    def before_run(self, runner: Runner) -> None:
        """Check which channels are to be shown.

        Raises:
            ConfigError: ``visualizer.bands`` are not three channels of the images.
        """
        _ = image_task_of(runner.cfg).bands

    def before_val_epoch(self, runner: Runner) -> None:
        """Decide whether this validation makes pictures."""
        self._shown = 0
        self._due = is_main_process() and is_shown(runner)

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Start to record the inputs of the backbone and the choices of its scans."""
        network = getattr(runner.bare_model, "backbone", None)
        if not self._wanted or not self.blocks or network is None or runner.cfg.get("compile"):
            return
        self._scans = self._listening.enter_context(record_scans(network))
        handle = network.register_forward_pre_hook(self._keep_inputs)
        self._listening.callback(handle.remove)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Draw the images of this batch, until there are ``count`` pictures."""
        self._listening.close()
        if not self._wanted or outputs is None:
            return
        step, draw, task = runner.iter, runner.visualizer, image_task_of(runner.cfg)
        for i, output in enumerate(outputs[: self.count - self._shown]):
            try:
                task.show(draw, f"prediction_{self._shown}", data_batch["inputs"][i], output, step)
            except DataError as error:  # an image that the config reads in a way of its own
                if not self._told:
                    runner.logger.warning(f"there is no picture of a validation image: {error}")
                self._told = True
            if scans := _spread(self._scans, self.blocks):
                image = picture_of(self._inputs[0][i], of_config(runner.cfg), task.bands) / 255
                draw.add_image(f"scans_{self._shown}", draw_scans(image, scans, i), step)
            self._shown += 1
        self._inputs, self._scans = [], {}

    @property
    def _wanted(self) -> bool:
        return self._due and self._shown < self.count

    def _keep_inputs(self, network: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        # Sliding windows call the network several times. Only the last call is kept, and the scans are from it too.
        self._inputs = [arguments[0].detach()]


def draw_scans(
    image: np.ndarray,  # [H', W', 3] or [H', W'], 0 … 1
    scans: Mapping[str, Any],
    sample: int,
) -> np.ndarray:  # [H", W", 3] uint8
    """Draw an image and, beside it, what scans chose on it.

    Args:
        image: the image that the model was given.
        scans: some of the records of :func:`~ssm_core.layers.record_scans`.
        sample: index of the image in the recorded batch.
    """
    figure, grid = panels(1, len(scans) + 1, image.shape)
    show_image(grid[0, 0], image, "image")
    for axes, (name, chosen) in zip(grid[0, 1:], scans.items(), strict=True):
        draw_choice(chosen, axes, image, sample, caption(name))
    file = BytesIO()
    save(figure, file, "png")
    return np.asarray(Image.open(file).convert("RGB"))


def _spread(record: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Choose at most ``count`` scans, evenly over the depth, that can be drawn and have more than two rows."""
    names = [name for name, chosen in record.items() if chosen.height > 2 and is_drawable(chosen)]
    numbers = np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)
    return {names[i]: record[names[i]] for i in numbers}
