"""Large images by tiles: what is merged equals what is known of the image, loops, and mmseg's sliding windows."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
from mmdet.structures import DetDataSample
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from mmseg.structures import SegDataSample
from pycocotools import mask as codec
from torch import nn

from ssm_core.errors import ConfigError
from ssm_train.apis.prediction import prediction_config
from ssm_train.runtime.config import load_config
from ssm_train.tasks import task_of
from ssm_train.tasks.detection.tiled import TiledDetector, is_cut, merge, whole_mask
from ssm_train.tasks.tiles import Place, Tiles

CONFIGS = Path(__file__).parents[2] / "configs"
UPERNET = CONFIGS / "mambatree" / "upernet_mambatree-nano_nuclei-128x128.py"
FASTER = CONFIGS / "quadmamba" / "faster-rcnn_quadmamba-nano_nuclei-128x128.py"


# --- Cutting


@pytest.mark.parametrize(("size", "overlap"), [(64, 16), (64, 0), (50, 49), (7, 3)])
def test_tiles_cover_an_image(size, overlap):
    for length in (1, 6, 7, 63, 64, 65, 100, 311):
        found = Tiles(size, overlap).cut(length)
        assert found[0][0] == 0
        assert found[-1][1] == length
        assert all(end - start == min(size, length) for start, end in found)
        assert all(first[1] - second[0] >= overlap for first, second in itertools.pairwise(found))
        assert len(found) == 1 or found[-2][1] < length, "no tile is superfluous"


@pytest.mark.parametrize(("tile", "overlap"), [(64, 64), (64, 65)])
def test_tiles_that_share_all(tile, overlap):
    with pytest.raises(ConfigError, match=r"^tiles of 64 pixels overlap by 0 to 63, not by"):
        prediction_config(load_config(FASTER), tile=tile, overlap=overlap)


@pytest.mark.parametrize("tile", ["64", -4, 0, 31, 64.0])
def test_tiles_that_no_model_takes(tile):
    words = rf"^the side of a tile is a whole number of 32 pixels or more, not {tile!r}$"
    with pytest.raises(ConfigError, match=words):
        prediction_config(load_config(FASTER), tile=tile)
    with pytest.raises(ConfigError, match=r"^tiles of 64 pixels overlap by 0 to 63, not by '8'$"):
        prediction_config(load_config(FASTER), tile=64, overlap="8")


def test_what_has_no_tiles():
    digits = load_config(CONFIGS / "quadmamba" / "quadmamba-nano_digits.py")
    with pytest.raises(ConfigError, match=r"^tiles are for detectors and segmentors: leave out --tile$"):
        prediction_config(digits, tile=64)
    with pytest.raises(ConfigError, match=r"^--tta is for whole images"):
        prediction_config(load_config(FASTER), tta=True, tile=64)
    with pytest.raises(ConfigError, match=r"^--overlap is how much tiles share"):
        prediction_config(load_config(FASTER), overlap=8)


# --- Merging objects


def area(box):
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def inside(a, b):
    return area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])


def merged_by_loops(boxes, scores, labels, cut, threshold):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: (cut[i], -scores[i])):
        others = [j for j in kept if labels[j] == labels[i]]
        overlaps = [
            inside(boxes[i], boxes[j]) / (area(boxes[i]) + area(boxes[j]) - inside(boxes[i], boxes[j])) for j in others
        ]
        pieces = [inside(boxes[i], boxes[j]) / area(boxes[i]) for j in others] if cut[i] else []
        if max([*overlaps, *pieces], default=0) <= threshold:
            kept.append(i)
    return sorted(kept, key=lambda i: -scores[i])


@pytest.mark.parametrize("seed", range(5))
def test_merging_by_loops(seed):
    draw = np.random.default_rng(seed)
    start, side = draw.uniform(0, 60, (80, 2)), draw.uniform(5, 30, (80, 2))
    boxes, scores = np.concatenate([start, start + side], axis=1), draw.permutation(80) / 80
    labels, cut = draw.integers(0, 2, 80), draw.random(80) < 0.5
    found = merge(*map(torch.from_numpy, (boxes, scores, labels, cut)), 0.4).tolist()
    assert found == merged_by_loops(boxes.tolist(), scores.tolist(), labels.tolist(), cut.tolist(), 0.4)
    assert 10 < len(found) < 70


def test_which_objects_are_cut():
    place = Place(top=0, bottom=100, left=50, right=150)
    boxes = torch.tensor([[0.0, 20, 30, 40], [20, 0, 40, 30], [20, 20, 99.5, 40], [20, 20, 40, 100], [5, 5, 90, 90]])
    # The upper edge of the tile is the upper edge of the image.
    assert is_cut(boxes, place, (300, 300)).tolist() == [True, False, True, True, False]
    assert not is_cut(boxes, Place(0, 100, 0, 100), (100, 100)).any()


@pytest.mark.parametrize("seed", range(4))
def test_a_mask_of_a_tile_in_its_image(seed):
    draw = np.random.default_rng(seed)
    height, width = 40, 30
    place = [Place(0, 40, 0, 30), Place(10, 25, 7, 20), Place(0, 12, 20, 30), Place(0, 40, 3, 9)][seed]
    shape = place.bottom - place.top, place.right - place.left
    for mask in (draw.random(shape) < 0.5, draw.random(shape) < 0.95, np.ones(shape, bool), np.zeros(shape, bool)):
        whole = np.zeros((height, width), np.uint8)
        whole[place.top : place.bottom, place.left : place.right] = mask
        found, expected = whole_mask(mask, place, (height, width)), codec.encode(np.asfortranarray(whole))
        assert found == {"size": [height, width], "counts": expected["counts"].decode()}


class LightRegions(nn.Module):
    """Detects every connected light region as an object."""

    def test_step(self, batch):
        return [self.regions(image.numpy(), sample) for image, sample in
                zip(batch["inputs"], batch["data_samples"], strict=True)]  # fmt: skip

    def regions(self, image, sample):
        numbers, count = scipy.ndimage.label(image[0] > 127)
        masks = np.stack([numbers == n for n in range(1, count + 1)]) if count else np.zeros((0, *numbers.shape), bool)
        found = [(x.start, y.start, x.stop, y.stop) for y, x in scipy.ndimage.find_objects(numbers)]
        sample.pred_instances = InstanceData(
            bboxes=torch.tensor(found, dtype=torch.float32).reshape(-1, 4),
            scores=torch.linspace(0.9, 0.5, max(count, 1))[:count],
            labels=torch.zeros(count, dtype=torch.long),
            masks=torch.from_numpy(masks),
        )
        return sample


def known_objects(seed, side=300, count=40, largest=30):
    """Return an image of light discs and boxes that do not touch, and the mask of each."""
    draw, image, masks = np.random.default_rng(seed), np.zeros((side, side + 50, 3), np.uint8), []
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    while len(masks) < count:
        radius = draw.uniform(3, largest / 2 - 1)
        cy, cx = (draw.uniform(0, n) for n in image.shape[:2])
        mask = (np.hypot if draw.random() < 0.5 else lambda a, b: np.maximum(abs(a), abs(b)))(y - cy, x - cx) < radius
        if mask.any() and not image[scipy.ndimage.binary_dilation(mask, iterations=2)].any():
            image[mask] = 255
            masks.append(mask)
    return image, masks


def tiled(module, size, overlap, scope="mmdet", kind=TiledDetector, pack="PackDetInputs"):
    with DefaultScope.overwrite_default_scope(scope):
        return kind(module=module, pipeline=[dict(type=pack)], size=size, overlap=overlap)


@pytest.mark.parametrize("seed", range(3))
def test_known_objects_are_found_once(seed):
    """Objects that are no larger than what tiles share are found exactly as in the whole image."""
    image, masks = known_objects(seed)
    model = tiled(LightRegions(), 96, 34)
    sample = DetDataSample(metainfo=dict(ori_shape=image.shape[:2]))
    found = model.test_step(dict(inputs=[torch.from_numpy(image).permute(2, 0, 1)], data_samples=[sample]))[0]
    encoded = [codec.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode() for mask in masks]
    assert sorted(mask["counts"] for mask in found.pred_instances.masks) == sorted(encoded)
    boxes = [codec.toBbox(mask).tolist() for mask in found.pred_instances.masks]
    expected = [[x, y, right - x, bottom - y] for x, y, right, bottom in found.pred_instances.bboxes.tolist()]
    assert boxes == expected
    assert (found.pred_instances.scores.diff() <= 0).all()


def test_an_image_without_objects():
    for module in (LightRegions(), BoxesAlone()):
        sample = DetDataSample(metainfo=dict(ori_shape=(120, 120)))
        found = tiled(module, 64, 16).test_step(dict(inputs=[torch.zeros(3, 120, 120).byte()], data_samples=[sample]))
        assert len(found[0].pred_instances) == 0
        assert ("masks" in found[0].pred_instances) == (type(module) is LightRegions)


class BoxesAlone(LightRegions):
    def regions(self, image, sample):
        sample = super().regions(image, sample)
        sample.pred_instances.pop("masks")
        return sample


# --- Segmentation


@pytest.fixture(scope="module")
def segmentor():
    torch.manual_seed(0)
    options = [
        "backbone.depths=(1,1,1,1)", "backbone.dims=(8,16,16,16)", "decode_head.in_channels=[8,16,16,16]",
        "decode_head.channels=16", "auxiliary_head.in_channels=16", "test_cfg.mode=slide",
        "test_cfg.crop_size=(64,64)", "test_cfg.stride=(40,40)",
    ]  # fmt: skip
    cfg = load_config(UPERNET, [f"model.{option}" for option in options])
    return task_of(cfg).build(), cfg


@pytest.mark.parametrize("size", [(150, 205), (64, 64), (40, 130), (150, 40)])
def test_tiles_are_mmsegs_sliding_windows(segmentor, size):
    from ssm_train.tasks.segmentation import TiledSegmentor

    model, _ = segmentor
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    meta = dict(ori_shape=size, img_shape=size)

    def batch():
        return dict(inputs=[image], data_samples=[SegDataSample(metainfo=meta)])

    model.test_cfg["mode"] = "slide"
    with torch.inference_mode():
        expected = model.test_step(batch())[0]
        model.test_cfg["mode"] = "whole"
        found = tiled(model, 64, 24, "mmseg", TiledSegmentor, "PackSegInputs").test_step(batch())[0]
    labels = found.pred_sem_seg.data
    assert (labels.dtype, labels.shape) == (torch.uint8, (1, *size))
    # Sums in another order may differ by a rounding error, which matters where two classes are equally likely.
    top = expected.seg_logits.data.topk(2, dim=0).values
    clear = (top[0] - top[1] > 1e-5)[None]
    assert clear.float().mean() > 0.99
    assert torch.equal(labels[clear].long(), expected.pred_sem_seg.data[clear])
    assert len(labels.unique()) > 1


def test_a_tiled_test_reads_the_annotations_it_needs(segmentor):
    _, cfg = segmentor
    changed = prediction_config(cfg, tile=64)
    names = [step.type for step in changed.test_dataloader.dataset.pipeline]
    assert names == ["ssm_train.LoadImage", "ssm_train.LoadLabelMap", "PackSegInputs"]
    assert (changed.model["size"], changed.model.overlap) == (64, 16)
    assert [step.type for step in changed.model.pipeline] == ["PackSegInputs"]
    changed = prediction_config(load_config(FASTER), tile=64)
    assert [step.type for step in changed.test_dataloader.dataset.pipeline] == ["ssm_train.LoadImage", "PackDetInputs"]
    assert [step.type for step in changed.model.pipeline] == ["Resize", "PackDetInputs"]
