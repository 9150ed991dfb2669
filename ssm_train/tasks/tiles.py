"""Large images, of which a model sees overlapping tiles: each is prepared and predicted as an image of its own."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import BaseTTAModel
from mmengine.structures import BaseDataElement
from torch import Tensor

from ssm_core.errors import ConfigError
from ssm_core.layers import MIN_SIDE
from ssm_train.data.normalization import test_data_of
from ssm_train.data.wrapper import bare_datasets
from ssm_train.runtime.config import with_model_around
from ssm_train.tasks.augmented import is_annotations, is_pack, loads_image, without_annotations

AT_ONCE = 4  # tiles in a batch


class Tiles(NamedTuple):
    """How an image is cut.

    Attributes:
        size: side of a tile in pixels of the file. Smaller images are a single tile.
        overlap: pixels that neighbouring tiles share at least. An object that is not larger is whole in a tile.
    """

    size: int
    overlap: int

    def check(self) -> None:
        """Check that tiles have pixels, and are larger than what they share.

        Raises:
            ConfigError: they are not.
        """
        if type(self.size) is not int or self.size < MIN_SIDE:
            raise ConfigError(f"the side of a tile is a whole number of {MIN_SIDE} pixels or more, not {self.size!r}")
        if type(self.overlap) is not int or not 0 <= self.overlap < self.size:
            raise ConfigError(f"tiles of {self.size} pixels overlap by 0 to {self.size - 1}, not by {self.overlap!r}")

    def cut(self, length: int) -> list[tuple[int, int]]:
        """First pixel and end of every tile along a side of an image. The last tile is moved back to end in the image.

        Args:
            length: of the side in pixels.
        """
        step = self.size - self.overlap
        count = max(length - self.size + step - 1, 0) // step + 1
        ends = [min(number * step + self.size, length) for number in range(count)]
        return [(max(end - self.size, 0), end) for end in ends]


class Place(NamedTuple):
    """The place of a tile in its image: first row, end of the rows, first column, end of the columns."""

    top: int
    bottom: int
    left: int
    right: int


class TiledModel(BaseTTAModel):
    """A model that predicts for an image by tiles. Its batches have images as they are read, and not prepared ones.

    An image stays in its own eight bits a channel. A few tiles at a time are prepared, so that memory hardly grows with
    the size of the image.

    Args:
        module: the trained model or its config.
        pipeline: the steps that prepare an image, after the one that reads it.
        size: see :class:`Tiles`.
        overlap: see :class:`Tiles`.
    """

    def __init__(self, module: Any, pipeline: Sequence[Mapping[str, Any]], size: int, overlap: int):
        super().__init__(module=module)
        self.pipeline = Compose(list(pipeline))
        self.tiles = Tiles(size, overlap)

    def test_step(self, data: Mapping[str, Any]) -> list[BaseDataElement]:
        """Predict for every image of a batch, whose ``inputs`` are [C, H, W]."""
        return [self.predict(*pair) for pair in zip(data["inputs"], data["data_samples"], strict=True)]

    @abstractmethod
    def predict(
        self,
        image: Tensor,  # [C, H, W]
        sample: BaseDataElement,
    ) -> BaseDataElement:
        """Predict for an image, and put the prediction into its sample."""

    def merge_preds(self, data_samples_list: Any) -> Any:
        """Refused. mmengine wants it of every wrapper, but tiles have places, which it is not told."""
        raise NotImplementedError(f"{type(self).__name__} merges tiles in predict, which knows their places")

    def predictions(
        self,
        image: Tensor,  # [C, H, W]
        sample: BaseDataElement,
    ) -> Iterator[tuple[Place, BaseDataElement]]:
        """The prediction for every tile of an image, row by row of tiles."""
        height, width = image.shape[1:]
        places = [Place(*rows, *columns) for rows in self.tiles.cut(height) for columns in self.tiles.cut(width)]
        for start in range(0, len(places), AT_ONCE):
            chosen = places[start : start + AT_ONCE]
            batch = pseudo_collate([self._prepare(image, place, sample) for place in chosen])
            yield from zip(chosen, self.module.test_step(batch), strict=True)

    def _prepare(self, image: Tensor, place: Place, sample: BaseDataElement) -> dict[str, Any]:
        tile = image[:, place.top : place.bottom, place.left : place.right]
        values = tile.permute(1, 2, 0).contiguous().numpy()
        size = values.shape[:2]
        values = values[..., 0] if values.shape[2] == 1 else values
        known = {"img_path": sample.get("img_path"), "img_id": sample.get("img_id")}
        return self.pipeline({**known, "img": values, "img_shape": size, "ori_shape": size})


def tiled_config(cfg: Config, kind: str, tiles: Tiles, settings: Mapping[str, Any], annotated: bool) -> Config:
    """Copy a config, with a model in the copy that predicts by tiles.

    Args:
        cfg: the config.
        kind: type of the model, a :class:`TiledModel`.
        tiles: how images are cut.
        settings: further arguments of the model.
        annotated: whether the annotations of the whole image are loaded, too.

    Raises:
        ConfigError: the test pipeline does not begin with a step that reads images, or the tiles are none.
    """
    tiles.check()
    pipeline = without_annotations(test_data_of(cfg).get("pipeline", ())[1:])
    copied = with_model_around(cfg, {"type": kind, "pipeline": pipeline, **tiles._asdict(), **settings})
    for dataset in bare_datasets(copied.test_dataloader.dataset):
        steps = dataset.get("pipeline", ())
        if not steps or not loads_image(steps[0]):
            raise ConfigError(
                "the test pipeline does not begin with a step that reads images: it cannot be used for tiles"
            )
        dataset.pipeline = [steps[0], *(s for s in steps[1:] if is_pack(s) or (annotated and is_annotations(s)))]
    return copied
