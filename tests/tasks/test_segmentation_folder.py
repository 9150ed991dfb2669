"""Folders of images and label maps, and that our steps read what mmseg's read."""

import itertools

import mmseg
import numpy as np
import pytest
from command_line import CONFIGS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.datasets import BaseSegDataset
from mmseg.registry import TRANSFORMS
from PIL import Image

from ssm_core.errors import ConfigError, DataError
from ssm_train.tasks.segmentation import SegmentationFolder

META = {"classes": ("ground", "thing"), "palette": [(0, 0, 0), (200, 0, 0)]}
FOLDERS = {"img_path": "images", "seg_map_path": "labels"}


def write(root, images, labels):
    for folder, names in (("images", images), ("labels", labels)):
        for name in names:
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 1).save(path, "png")


def folder(root, kind=SegmentationFolder, **options):
    return kind(data_root=str(root), data_prefix=FOLDERS, metainfo=META, **{"img_suffix": ".png", **options})


def test_it_lists_what_mmseg_lists(tmp_path):
    write(tmp_path, ["b.png", "a/c.png", "a/b.png", "no.jpg"], ["b.png", "a/c.png", "a/b.png"])
    ours, theirs = (folder(tmp_path, kind) for kind in (SegmentationFolder, BaseSegDataset))
    assert len(ours) == len(theirs) == 3
    assert [ours.get_data_info(i) for i in range(3)] == [theirs.get_data_info(i) for i in range(3)]
    (tmp_path / "names.txt").write_text("a/b\n")
    ours, theirs = (folder(tmp_path, kind, ann_file="names.txt") for kind in (SegmentationFolder, BaseSegDataset))
    assert ours.get_data_info(0) == theirs.get_data_info(0)


def test_suffixes_in_any_case_and_what_is_no_data(tmp_path):
    write(tmp_path, ["a.PNG", "b.png", "c.Png", "._d.png", ".hidden/e.png"], ["a.png", "b.PNG", "c.png"])
    found = folder(tmp_path)
    pairs = [(info["img_path"], info["seg_map_path"]) for info in map(found.get_data_info, range(len(found)))]
    names = [("a.PNG", "a.png"), ("b.png", "b.PNG"), ("c.Png", "c.png")]
    assert pairs == [(str(tmp_path / "images" / a), str(tmp_path / "labels" / b)) for a, b in names]


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x"])
def test_names_of_a_list_stay_in_the_folder(tmp_path, name):
    write(tmp_path, ["a.png"], ["a.png"])
    (tmp_path / "names.txt").write_text(f"a\n{name}\n")
    with pytest.raises(DataError, match=rf"names\.txt names '{name}', which is no place within its folder"):
        folder(tmp_path, ann_file="names.txt")


def test_a_class_is_named_once(tmp_path):
    write(tmp_path, ["a.png"], ["a.png"])
    for test_mode in (False, True):
        with pytest.raises(ConfigError, match="a dataset's classes name thing twice: name every class once"):
            SegmentationFolder(
                data_root=str(tmp_path), data_prefix=FOLDERS, metainfo={**META, "classes": ("thing", "thing")},
                img_suffix=".png", test_mode=test_mode,
            )  # fmt: skip


def test_a_suffix_that_matches_nothing_is_named(tmp_path):
    write(tmp_path, ["a.png", "b.png", "c.tif"], ["a_mask.png"])
    with pytest.raises(DataError, match=r"images has no image of img_suffix='\.jpg'; it has 2 \.png, 1 \.tif"):
        folder(tmp_path, img_suffix=".jpg")
    with pytest.raises(DataError, match=r"labels has no label map of seg_map_suffix='\.png'; it has 1 \.png"):
        folder(tmp_path)
    assert len(folder(tmp_path, seg_map_suffix="_mask.png")) == 2
    with pytest.raises(DataError, match=r"there is no folder .*nowhere with images"):
        SegmentationFolder(data_root=str(tmp_path), data_prefix={"img_path": "nowhere"}, metainfo=META)


# --- The steps of the ADE20K and Cityscapes configs


@pytest.fixture(scope="module")
def scene():
    from skimage import data

    return data.astronaut()[:201, :330]


@pytest.mark.parametrize("name", ["ade20k_512", "cityscapes_512x1024"])
@pytest.mark.parametrize(("suffix", "options"), [(".png", {}), (".jpg", {"quality": 90}), (".jpg", {"subsampling": 0})])
def test_the_same_pixels_and_labels_as_mmsegs_steps(tmp_path, scene, name, suffix, options):
    """Of 8-bit colours and grey. ADE20K's images are JPEG files, Cityscapes' are PNG files."""
    cfg = Config.fromfile(CONFIGS / "_base_" / "datasets" / f"{name}.py")
    labels = np.random.RandomState(0).randint(0, 19, scene.shape[:2]).astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    for image, reduced in itertools.product((scene, scene[..., 1]), (False, True)):
        Image.fromarray(image).save(tmp_path / f"x{suffix}", **options)
        with DefaultScope.overwrite_default_scope("mmseg"):
            ours = [TRANSFORMS.build(step) for step in cfg.test_pipeline if step["type"].startswith("ssm_train.")]
            theirs = [TRANSFORMS.build({"type": kind}) for kind in ("LoadImageFromFile", "LoadAnnotations")]
        found = []
        for steps in (ours, theirs):
            results = {"img_path": str(tmp_path / f"x{suffix}"), "seg_map_path": str(tmp_path / "labels.png")}
            results |= {"reduce_zero_label": reduced, "label_map": None, "seg_fields": []}
            for step in steps:
                results = step(results)
            found.append(results)
        for key in ("img", "gt_seg_map"):
            assert found[0][key].dtype == found[1][key].dtype
            assert np.array_equal(found[0][key], found[1][key]), key
        assert found[0]["ori_shape"] == found[1]["ori_shape"]


@pytest.mark.parametrize("name", ["ade20k", "cityscapes"])
def test_the_other_steps_are_mmsegs(name):
    """The pipelines differ from those that mmseg has for the data in nothing but the two steps that read files."""
    ours = Config.fromfile(next((CONFIGS / "_base_" / "datasets").glob(f"{name}_*.py")))
    theirs = Config.fromfile(f"{mmseg.__path__[0]}/.mim/configs/_base_/datasets/{name}.py")
    renamed = {"ssm_train.LoadImage": "LoadImageFromFile", "ssm_train.LoadLabelMap": "LoadAnnotations"}

    def plain(steps):
        if isinstance(steps, list | tuple):
            return [plain(step) for step in steps]
        if isinstance(steps, dict):
            left_out = ("reduce_zero_label", "backend_args")  # the dataset says the first
            return {key: renamed.get(value, value) if key == "type" else plain(value)
                    for key, value in steps.items() if key not in left_out}  # fmt: skip
        return steps

    for key in ("train_pipeline", "test_pipeline", "tta_pipeline"):
        assert plain(ours[key]) == plain(theirs[key])
    assert plain(ours.val_dataloader.dataset.pipeline) == plain(theirs.test_pipeline)
