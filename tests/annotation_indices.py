"""What tests of the index of an annotation file share."""

from multiprocessing import get_context

from ssm_train.tasks.detection.index import Indexing, open_annotations

ALL = Indexing(smallest=0)
FORK = get_context("fork")


def opened(coco, masks=True, indexing=ALL, **options):
    return open_annotations(coco.path, folder=str(coco.root / "train"), masks=masks, indexing=indexing, **options)


def indices(coco):
    return sorted(coco.root.glob(".*.index"))


def took(lines):
    """Whether the last reading was from an index, after which all lines are forgotten."""
    said = [line for line in lines if "took the annotations" in line or "once, for its index" in line]
    lines.clear()
    assert len(said) == 1
    return "took" in said[0]
