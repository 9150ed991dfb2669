"""Images and label maps in two folders."""

import os
from pathlib import Path

from mmengine.fileio import list_from_file
from mmseg.datasets import BaseSegDataset

from ssm_core.errors import DataError
from ssm_train.data.classes import check_classes
from ssm_train.data.images import endings, files_below
from ssm_train.data.inside import check_inside


class SegmentationFolder(BaseSegDataset):
    """mmseg's ``BaseSegDataset`` that says what a folder has instead, where it has none of the files.

    Suffixes are compared without upper and lower case. Files and folders whose names begin with a dot are no data, and
    links to folders are followed. The arguments are mmseg's: an image ``NAME`` + ``img_suffix`` has the label map
    ``NAME`` + ``seg_map_suffix``, in the same sub-folders.

    Raises:
        ConfigError: ``metainfo`` names a class twice, or has no list of names.
        DataError: no image ends in ``img_suffix``, no label map belongs to one of them, or a name in the list
            ``ann_file`` leads outside of the folders.
    """

    def load_data_list(self) -> list[dict]:
        """List the images and their label maps, sorted by the paths of the images."""
        if (classes := self._metainfo.get("classes")) is not None:
            check_classes(classes)
        if self.ann_file and not os.path.isdir(self.ann_file):  # a list of names
            for name in map(str.strip, list_from_file(self.ann_file)):
                if name:
                    check_inside(name, self.ann_file)
            return super().load_data_list()
        images = self.data_prefix.get("img_path") or ""
        found = _by_name(images, self.img_suffix)
        if not found:
            raise DataError(_missing(images, "image", "img_suffix", self.img_suffix))
        folder = self.data_prefix.get("seg_map_path")
        labels = {} if folder is None else _by_name(folder, self.seg_map_suffix)
        if folder is not None and not found.keys() & labels.keys():
            name = f"{min(found)}{self.seg_map_suffix}"
            raise DataError(f"{_missing(folder, 'label map', 'seg_map_suffix', self.seg_map_suffix)}: one is {name}")
        samples = []
        for name, path in found.items():
            sample = {"img_path": path, "label_map": self.label_map}
            if folder is not None:  # a label map that is missing is an unreadable file
                sample["seg_map_path"] = labels.get(name, os.path.join(folder, name + self.seg_map_suffix))
            samples.append({**sample, "reduce_zero_label": self.reduce_zero_label, "seg_fields": []})
        return sorted(samples, key=lambda sample: sample["img_path"])


def _by_name(folder: str, suffix: str) -> dict[str, str]:
    """Files of a folder that have a suffix, by their paths below the folder without it."""
    files = (path for path in files_below(folder) if path.lower().endswith(suffix.lower()))
    return {os.path.relpath(path, folder)[: -len(suffix) or None]: path for path in files}


def _missing(folder: str, what: str, key: str, suffix: str) -> str:
    if not Path(folder).is_dir():
        return f"there is no folder {folder} with {what}s"
    files = list(files_below(folder))
    has = f"it has {endings(files)}" if files else "it is empty"
    return f"{folder} has no {what} of {key}={suffix!r}; {has}"
