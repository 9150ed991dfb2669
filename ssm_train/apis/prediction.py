"""How a trained model predicts: as its config says, for several versions of an image, or for tiles of it."""

from mmengine.config import Config

from ssm_core.errors import ConfigError
from ssm_train.tasks import task_of
from ssm_train.tasks.tiles import Tiles


def prediction_config(cfg: Config, tta: bool = False, tile: int | None = None, overlap: int | None = None) -> Config:
    """Change how the model of a config predicts. The result is for tests and for inference, and not for training.

    Args:
        cfg: the config, which stays as it is.
        tta: whether predictions for several versions of an image are merged: flipped, and in several sizes.
        tile: side in pixels of the tiles that the model sees of an image; None for whole images.
        overlap: pixels that tiles share, a quarter of their side if left out. See :class:`.Tiles`.

    Raises:
        ConfigError: the task or the config allows for none of that, both are asked for, there is an overlap of no
            tiles, or the two are no such numbers.
    """
    if tile is None:
        if overlap is not None:
            raise ConfigError("--overlap is how much tiles share: add --tile, or leave it out")
        return task_of(cfg).augmented() if tta else cfg
    if tta:
        raise ConfigError("--tta is for whole images: leave out --tile or --tta")
    if overlap is None:
        overlap = tile // 4 if isinstance(tile, int) else 0  # any other tile is refused
    return task_of(cfg).tiled(Tiles(tile, overlap))
