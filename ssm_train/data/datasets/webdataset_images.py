"""Images in the shards of WebDataset."""

import json
import logging
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from mmengine.logging import print_log

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.datasets.base import Transform
from ssm_train.data.datasets.folds import Fold
from ssm_train.data.datasets.image_files import EncodedImages
from ssm_train.data.datasets.label_values import number_labels
from ssm_train.data.faults import Faults, Unusable
from ssm_train.data.images import EXTENSIONS, Mode
from ssm_train.data.pixels import ImageBytes
from ssm_train.data.shards import Member, Shard, expand_shards, key_and_ending, list_shard
from ssm_train.registry import DATASETS

Sample = dict[str, Member]  # the files of a sample by their endings
_IMAGES = ";".join(ending.removeprefix(".") for ending in EXTENSIONS)
_NUMBERS, _NAMES, _JSON = ("cls", "cls2", "class", "index", "inx", "id"), ("txt", "text"), ("json", "jsn")


@DATASETS.register_module()
class WebDatasetImages(EncodedImages):
    """Images in shards: tar files whose files belong to one sample if their names agree up to the first dot.

    A sample has an image, ``0001.jpg``, and its label, ``0001.cls``. Unlike in WebDataset's stream, every image can be
    reached at any time. The images of an epoch are therefore shuffled over all shards, divided evenly among processes
    and workers, and the same in a resumed run. Samples and files that cannot be used are left out, counted and named.

    Args:
        transform: see :class:`ImageDataset`.
        shards: the tar files, see :func:`.expand_shards`, such as ``"data/train-{000000..000146}.tar"``.
        label: the ending of the files with the labels: ``cls`` or another of WebDataset's for a number, ``txt`` for the
            name of a class, ``json`` for either.
        field: where ``label`` ends in ``json``, the key of the label.
        image: the endings of the images, the first that a sample has counts; by default all that are read.
        classes: names of the classes in the order of their numbers; see :func:`.number_labels`. Give them where a split
            could lack a class, and where results should have names instead of numbers.
        multi_label: whether an image can have several classes or none, as a list in JSON. The model then needs
            ``multi_label=True`` too.
        mode: see :class:`.ImageFolder`.
        unreadable: see :class:`ImageDataset`. ``"raise"`` also stops at a sample or a file that would be left out.
        channels: see :class:`.ImageFolder`.
        value_range: see :class:`.ImageFolder`.
        fold: see :class:`.ImageFolder`.

    Raises:
        DataError: a shard is missing or no tar file, or more than half of the samples or of the shards cannot be used.
        ConfigError: ``shards``, ``label``, ``field``, ``mode``, ``channels``, ``value_range`` or ``fold`` is wrong.
    """

    def __init__(
        self,
        transform: dict | Transform,
        shards: str | Sequence[str],
        label: str = "cls",
        field: str = "label",
        image: str = _IMAGES,
        classes: Sequence[str] | None = None,
        multi_label: bool = False,
        mode: Mode = "RGB",
        unreadable: Literal["skip", "raise"] = "skip",
        channels: int | None = None,
        value_range: Sequence[float] | None = None,
        fold: Fold | None = None,
    ):
        self.paths = expand_shards(shards)
        self._label, self._field, self._images = label.lower(), field, image.lower().split(";")
        if self._label.split(".")[-1] not in (*_NUMBERS, *_NAMES, *_JSON):
            raise ConfigError(
                f"a label is in a file that ends in {', '.join((*_NUMBERS, *_NAMES, *_JSON))}, and not in {label!r}"
            )
        place = self.paths[0] if len(self.paths) == 1 else f"{self.paths[0]} and {len(self.paths) - 1} more"
        report = _Report(place, unreadable)
        # Numbers are kept in arrays, which workers share with their parent. Objects would be copied when they are used.
        self._shards: list[Shard] = []
        self._names: list[str] = []
        self._shard_of, self._offsets, self._sizes = array("l"), array("q"), array("q")
        values: list[Any] = []
        for path in self.paths:
            shard = list_shard(path)
            report.of_shard(shard)
            for key, sample in _samples(shard, report):
                self._add(shard, key, sample)
                values.append(self._value(shard, sample))
            self._shards.append(shard._replace(members=[], left_out=[]))
        numbered = number_labels(values, classes, multi_label, place)
        good = []
        for number, own in enumerate(numbered.labels):
            fault = Unusable("has no image") if self._offsets[number] < 0 else own
            if isinstance(fault, Unusable):
                report.of_sample(fault.kind, f"{self._names[number]} {fault}")
            else:
                good.append(number)
        report.say(len(values), len(self.paths))
        if not good:
            raise DataError(f"{place} has no sample with an image and a label")
        super().__init__(
            [numbered.labels[number] for number in good], numbered.classes, transform, mode, unreadable, channels,
            value_range, fold,
        )  # fmt: skip
        self._places = array("q", (good[place] for place in self.chosen))

    def source(self, index: int) -> ImageBytes:
        """The image's name and its content, from its shard."""
        place = self._places[index]
        shard = self._shards[self._shard_of[place]]
        return ImageBytes(self._names[place], shard.read(self._offsets[place], self._sizes[place]))

    def name(self, index: int) -> str:
        """The shard and the image in it."""
        return self._names[self._places[index]]

    def _add(self, shard: Shard, key: str, sample: Sample) -> None:
        """Note where the image of a sample is."""
        image = next((sample[ending] for ending in self._images if ending in sample), None)
        self._names.append(f"{shard.path}/{key if image is None else image.name}")
        self._shard_of.append(len(self._shards))
        self._offsets.append(-1 if image is None else image.offset)
        self._sizes.append(0 if image is None else image.size)

    def _value(self, shard: Shard, sample: Sample) -> Any:
        """The label that a sample states, or what is wrong with it."""
        member = sample.get(self._label)
        if member is None:
            return Unusable(f"has no file .{self._label}", f"it has {', '.join(sample)}"[:200])
        kind = self._label.split(".")[-1]
        try:
            text = shard.read(member.offset, member.size).decode() if member.text is None else member.text
            if kind in _NAMES:
                return text
            if kind in _NUMBERS:
                return int(text)
            row = json.loads(text)
        except (OSError, ValueError, RecursionError) as error:
            return Unusable(f"has a file .{self._label} that cannot be read", " ".join(str(error).split())[:80])
        if isinstance(row, dict) and self._field not in row:
            return Unusable(f"has no {self._field!r} in its .{self._label}", f"it has {', '.join(row)}"[:200])
        return row[self._field] if isinstance(row, dict) else row


def _samples(shard: Shard, report: "_Report") -> Iterator[tuple[str, Sample]]:
    """The samples of a shard by their keys, in the order of their first files."""
    samples: dict[str, Sample] = {}
    for member in shard.members:
        split = key_and_ending(member.name)
        if split is None:
            continue
        key, ending = split
        sample = samples.setdefault(key, {})
        if ending in sample:
            report.of_file("has the name of an earlier one", f"{shard.path}/{member.name} is there twice")
        else:
            sample[ending] = member
    return iter(samples.items())


class _Report:
    """Counts what is left out of some shards.

    Args:
        place: the shards, for messages.
        unreadable: whether the first thing that would be left out stops.
    """

    def __init__(self, place: str, unreadable: Literal["skip", "raise"]) -> None:
        self._stops = unreadable == "raise"
        self._shards = Faults("shards", place, "lost the end of")
        self._samples, self._files = Faults("samples", place), Faults("files", place)
        self._count = 0  # of files

    def of_shard(self, shard: Shard) -> None:
        """Count what is wrong with a shard itself, and with those of its files that are never read."""
        self._count += len(shard.members) + len(shard.left_out)
        if shard.damage:
            self._add(self._shards, "is damaged", f"{shard.path}: {shard.damage}")
        for name, fault in shard.left_out:
            self._add(self._files, fault, f"{shard.path}/{name} {fault}")

    def of_file(self, kind: str, words: str) -> None:
        """Count a file that is left out. The arguments are those of :meth:`.Faults.add`."""
        self._add(self._files, kind, words)

    def of_sample(self, kind: str, words: str) -> None:
        """Count a sample that is left out. The arguments are those of :meth:`.Faults.add`."""
        self._add(self._samples, kind, words)

    def say(self, samples: int, shards: int) -> None:
        """Log what is left out.

        Raises:
            DataError: it is more than half.
        """
        for faults, total in ((self._shards, shards), (self._files, self._count), (self._samples, samples)):
            faults.check(total)
            for line in faults.lines(total):
                print_log(line, logger="current", level=logging.WARNING)

    def _add(self, faults: Faults, kind: str, words: str) -> None:
        if self._stops:
            raise DataError(f"{words}; unreadable='skip' leaves such {faults.unit} out")
        faults.add(kind, words)
