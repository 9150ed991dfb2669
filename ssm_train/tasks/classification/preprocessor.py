"""What is done to a batch of images before a classifier sees it."""

from typing import Any

from mmengine.model import BaseDataPreprocessor

from ssm_train.data.augmentation import Backend, finish
from ssm_train.data.collate import DRAWN_KEY
from ssm_train.registry import MODELS


@MODELS.register_module()
class ImagePreprocessor(BaseDataPreprocessor):
    """Moves a batch to the device of the model, and finishes images there that the loading processes left unfinished.

    Unfinished are the images of a :class:`.TrainTransform` with ``on_device=True``. All others are only moved. A batch
    that has been through the preprocessor is not changed by it again.

    Args:
        non_blocking: whether the host goes on while tensors in pinned memory are copied.
    """

    compiles_with_backbone = True

    def __init__(self, non_blocking: bool = True):
        super().__init__(non_blocking)
        self._backend: Backend | None = None

    def compile(self, backend: Backend = "inductor", **_: Any) -> None:
        """Compile the longest parts of finishing a batch.

        Args:
            backend: see ``torch.compile``. Its other options are for networks, whose inputs keep their shapes.
        """
        self._backend = backend

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Move a batch and finish its images.

        Args:
            data: a batch of :func:`.collate_images`.
            training: has no effect; mmengine's models give it.

        Returns:
            The batch, with float32 images that are normalised.
        """
        batch = dict(self.cast_data(data))
        drawn = batch.pop(DRAWN_KEY, None)
        if drawn is not None:
            batch["inputs"] = finish(batch["inputs"], drawn, self._backend)
        return batch
