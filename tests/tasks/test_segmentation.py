"""Tests of UPerNet with both families on real microscopy: training, resuming, testing in all modes, bad data."""

import csv
import gc
import itertools
import multiprocessing
import re
import shutil

import numpy as np
import pytest
import runs
import sklearn.metrics
import torch
from command_line import CONFIGS
from mmengine.dataset import InfiniteSampler
from mmengine.registry import DATASETS, MODELS, DefaultScope
from PIL import Image
from torch._dynamo.utils import counters

from ssm_core.errors import ConfigError, DataError
from ssm_train.apis import train as run
from ssm_train.data.collate import UNREADABLE_KEY, data_samples_of
from ssm_train.data.guarded import GuardedDataset
from ssm_train.runtime.config import load_config, with_test_augmentation
from ssm_train.runtime.reproducibility import ResumableBatchSampler
from ssm_train.tasks.segmentation.predictions import LabelMapWriter

FAMILIES = {
    "quadmamba": "quadmamba/upernet_quadmamba-nano_nuclei-128x128.py",
    "mambatree": "mambatree/upernet_mambatree-nano_nuclei-128x128.py",
}
TINY = (
    "model.backbone.depths=(1,1,1,1)",
    "model.backbone.dims=(16,24,32,48)",
    "model.decode_head.in_channels=[16,24,32,48]",
    "model.decode_head.channels=16",
    "model.auxiliary_head.in_channels=32",
    "model.auxiliary_head.channels=8",
)
QUICK = (
    "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False",
    "train_dataloader.batch_size=2",
    "val_dataloader.num_workers=0",
    "val_dataloader.persistent_workers=False",
    "test_dataloader.num_workers=0",
    "test_dataloader.persistent_workers=False",
    "default_hooks.curves.plot=False",
    "default_hooks.pictures.count=0",
    "visualizer.tensorboard=False",
    "param_scheduler.0.end=2",
    "param_scheduler.1.begin=2",
)
NUMBER = itertools.count()  # mmengine shares loggers between runs of the same name and second
pytestmark = pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False")


def configure(family, folder, *options, iterations=4, tiny=True, every=2):
    steps = [f"param_scheduler.1.end={iterations}", f"train_cfg.max_iters={iterations}"]
    steps += [f"train_cfg.val_interval={every}", f"default_hooks.checkpoint.interval={every}"]
    steps += ["default_hooks.curves.interval=2"]
    steps += [f"experiment_name=segmentation_{next(NUMBER)}", *QUICK, *(TINY if tiny else ()), *options]
    cfg = load_config(CONFIGS / FAMILIES[family], steps)
    object.__setattr__(cfg, "_format_python_code", False)  # formatting would take a second per run
    cfg.work_dir = str(folder)
    return cfg


def point_at(cfg, root):
    """Make a config read its data from another folder."""
    for part in ("train", "val", "test"):
        cfg[f"{part}_dataloader"].dataset.data_root = str(root)
    return cfg


@pytest.fixture(scope="module")
def tiles(nuclei_root, tmp_path_factory):
    """Cut real nuclei into tiles of 64 x 64 pixels: 4 to train on and 2 to validate on."""
    from ssm_train.data.prepare.nuclei import prepare_nuclei

    root = tmp_path_factory.mktemp("tiles")
    prepare_nuclei(root, nuclei_root / "nuclei", tile=64)
    for split, count in (("train", 4), ("val", 2)):
        for name in (split, f"{split}_labels"):
            for path in sorted((root / "nuclei" / name).iterdir())[count:]:
                path.unlink()
    return root / "nuclei"


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request, tiles, tmp_path_factory):
    """Train for four iterations. Return the family, the work folder and the result."""
    folder = tmp_path_factory.mktemp(f"trained_{request.param}")
    cfg = configure(request.param, folder, "default_hooks.pictures.count=2")
    return request.param, folder, run.train(point_at(cfg, tiles))


def test_training_writes_curves_and_checkpoints(trained):
    _, folder, result = trained
    assert [point["iter"] for point in result.curves["train"]] == [2, 4]
    assert [point["iter"] for point in result.curves["val"]] == [2, 4]
    assert {"mIoU", "mAcc", "aAcc"} <= set(result.curves["val"][0])
    assert {"iter_2.pth", "iter_4.pth"} <= {path.name for path in folder.iterdir()}
    assert list(folder.glob("best_mIoU_iter_*.pth"))


def test_validation_is_shown(trained):
    """Each validation draws two pictures of each tile: the labels beside the prediction, and the scans."""
    _, folder, _ = trained
    names = {path.name for path in folder.glob("*/vis_data/vis_image/*.png")}
    drawn = {f"{kind}_{i}_{step}.png" for kind in ("prediction", "scans") for i in (0, 1) for step in (2, 4)}
    assert names == {*drawn, "val_confusion_4.png"}
    with Image.open(next(folder.glob("*/vis_data/vis_image/prediction_0_2.png"))) as picture:
        # Both are enlarged. A legend is below each of them, and a caption above.
        assert picture.width == pytest.approx(2 * 512, abs=20)
        assert 512 < picture.height < 600


def test_resumed_is_uninterrupted(trained, tiles, tmp_path):
    family, folder, result = trained
    # Pretend that the run was killed before the validation. The resumed run has to make up for it.
    state = torch.load(folder / "iter_2.pth", weights_only=True)
    assert state["message_hub"]["runtime_info"].pop("last_iteration_validated") == 2
    torch.save(state, tmp_path / "iter_2.pth")
    # Rewrite the checkpoint into the form that the first edition wrote.
    runs.as_first_edition(tmp_path / "iter_2.pth", tmp_path / "iter_2.pth")
    resumed = run.train(point_at(configure(family, tmp_path), tiles), resume=True)
    assert resumed.curves["val"] == result.curves["val"]
    states = [torch.load(place / "iter_4.pth", weights_only=True)["state_dict"] for place in (folder, tmp_path)]
    assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())


def test_compiled_heads_train_as_eager_ones(tiles, tmp_path):
    """The backbone is one graph, each head is one, and so is the loss of both; no graph breaks."""
    # Dropout is off because torch draws other random numbers within a graph.
    plain = ("model.decode_head.dropout_ratio=0.0", "model.auxiliary_head.dropout_ratio=0.0")
    torch.compiler.reset()
    counters.clear()
    states = {}
    for name, keys in (("eager", {}), ("traced", {"compile": dict(backend="aot_eager", fullgraph=True)})):
        cfg = point_at(configure("mambatree", tmp_path / name, *plain, iterations=3, every=3), tiles)
        cfg.model.auxiliary_head = [cfg.model.auxiliary_head]  # mmseg accepts a list of heads
        cfg.merge_from_dict(keys)
        run.train(cfg)
        states[name] = torch.load(tmp_path / name / "iter_3.pth", weights_only=True)["state_dict"]
    assert counters["stats"]["unique_graphs"] == 5  # four in training, the backbone in validation
    assert states["eager"].keys() == states["traced"].keys()
    for name, value in states["eager"].items():
        torch.testing.assert_close(states["traced"][name], value, rtol=1e-3, atol=1e-4, msg=name)


MODES = {
    "whole": (),
    "slide": ("model.test_cfg.mode=slide", "model.test_cfg.crop_size=(48,48)", "model.test_cfg.stride=(32,32)"),
    "one window": ("model.test_cfg.mode=slide", "model.test_cfg.crop_size=(64,64)", "model.test_cfg.stride=(64,64)"),
}


def check_label_maps(folder, accuracy, tiles):
    """Compute the figures of a test from the label maps that it wrote, by scikit-learn."""
    true, found = [], []
    for path in sorted((tiles / "val_labels").glob("*.png")):
        true.append(np.array(Image.open(path)).ravel())
        found.append(np.array(Image.open(folder / "maps" / path.name)).ravel())
    kept = (true := np.concatenate(true)) != 255
    true, found = true[kept], np.concatenate(found)[kept]
    assert accuracy == pytest.approx(100 * (true == found).mean(), abs=0.01)
    rows = list(csv.reader((folder / "evaluation" / "test_confusion.csv").read_text().splitlines()))
    matrix = sklearn.metrics.confusion_matrix(true, found, labels=range(3))
    assert [row[1:] for row in rows[1:]] == matrix.astype(str).tolist()
    rows = list(csv.DictReader((folder / "evaluation" / "test_classes.csv").read_text().splitlines()))
    expected = sklearn.metrics.jaccard_score(true, found, average=None, labels=range(3))
    assert [float(row["iou"] or 0) for row in rows] == pytest.approx(100 * expected, rel=1e-5)
    expected = sklearn.metrics.precision_recall_fscore_support(true, found, labels=range(3), zero_division=0)
    for name, values in zip(("precision", "recall", "f1"), expected[:3], strict=True):
        assert [float(row[name] or 0) for row in rows] == pytest.approx(100 * values, rel=1e-5)
    assert (folder / "evaluation" / "test_confusion.png").exists()


def test_label_maps_have_the_names_of_their_images(tmp_path):
    class Data:
        paths = ("in/a/x.jpg", "in/a/x.png", "in/b/x.jpg")
        metainfo = {}  # noqa: RUF012

        def __len__(self):
            return len(self.paths)

        def get_data_info(self, index):
            return {"img_path": self.paths[index]}

    writer = LabelMapWriter(tmp_path)
    writer.dataset = Data()
    labels = torch.tensor([[[0, 254], [1, 300]]])
    for path in Data.paths:
        writer.process({}, [dict(img_path=path, pred_sem_seg=dict(data=labels), reduce_zero_label="b" in path)])
    assert writer.evaluate(3) == {}
    found = {path.relative_to(tmp_path).as_posix(): np.array(Image.open(path)) for path in tmp_path.rglob("*.png")}
    assert found.keys() == {"a/x.jpg.png", "a/x.png.png", "b/x.png"}
    assert np.array_equal(found["a/x.jpg.png"], labels[0])
    assert np.array_equal(found["b/x.png"], labels[0] + 1)


def test_whole_slide_and_augmented_tests(trained, tiles, tmp_path):
    family, folder, result = trained
    figures = {}
    for mode, options in MODES.items():
        cfg = point_at(configure(family, tmp_path, *options), tiles)
        figures[mode] = run.test(cfg, folder / "iter_4.pth", tmp_path / "maps" if mode == "whole" else None)
    expected = result.curves["val"][-1]
    check_label_maps(tmp_path, figures["whole"]["aAcc"], tiles)
    assert figures["whole"] == {name: expected[name] for name in figures["whole"]}
    assert figures["one window"] == pytest.approx(figures["whole"])
    cfg = point_at(configure(family, tmp_path), tiles)
    with pytest.raises(ConfigError, match="the config has no tta_pipeline"):
        with_test_augmentation(cfg)
    composite = load_config(CONFIGS / "quadmamba/upernet_quadmamba-lite_composite-256x256.py")
    cfg.tta_pipeline = composite.tta_pipeline
    cfg = with_test_augmentation(cfg)
    assert set(run.test(cfg, folder / "iter_4.pth")) == set(figures["whole"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(32, 61), (75, 133)])
@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_any_image_size(family, size, mode):
    cfg = configure(family, "unused", *MODES[mode])
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(cfg.model).eval()
        with torch.inference_mode():
            prediction = model(torch.randn(1, 3, *size), mode="predict")[0]
    assert prediction.pred_sem_seg.data.shape == (1, *size)
    assert prediction.seg_logits.data.shape == (3, *size)


@pytest.mark.parametrize("family", FAMILIES)
def test_overfits_a_tile(family, tiles, tmp_path):
    """The model learns one tile by heart, except its boundaries.

    They are one pixel wide, and the head's map has one place for every fourth pixel.
    """
    options = [
        "train_dataloader.dataset.indices=1",
        "train_dataloader.batch_size=4",
        "val_dataloader.dataset.indices=1",
        "val_dataloader.dataset.data_prefix.img_path=train",
        "val_dataloader.dataset.data_prefix.seg_map_path=train_labels",
        "optim_wrapper.optimizer.lr=4e-3",
        # The batch holds one image and its reflections. Their means over the whole image are equal, so a scale of 1
        # would give batch norm nothing to normalise.
        "model.decode_head.pool_scales=(2,4)",
        "model.data_preprocessor.size=(64,64)",
    ]
    result = run.train(point_at(configure(family, tmp_path, *options, iterations=60, tiny=False, every=60), tiles))
    assert result.last("mIoU") > 50, "one class for all pixels has 26"
    assert result.last("aAcc") > 90
    first, last = (result.curves["train"][i]["loss"] for i in (0, -1))
    assert last < 0.3 * first


def test_starting_from_a_classifier(tiles, tmp_path):
    import quadtree_ssm

    small = dict(depths=(1, 1, 1, 1), dims=(16, 24, 32, 48), ssm_ratio=1.0)
    classifier = quadtree_ssm.QuadMamba(**small, num_classes=5)
    weights = {f"backbone.{name}": tensor for name, tensor in classifier.state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / "classifier.pth")
    options = [f"load_from={tmp_path / 'classifier.pth'}", "optim_wrapper.optimizer.lr=0.0"]
    run.train(point_at(configure("quadmamba", tmp_path, *options, iterations=3), tiles))
    state = torch.load(tmp_path / "iter_3.pth", weights_only=True)["state_dict"]
    taken = [name for name in weights if not name.startswith("backbone.head.")]
    assert all(torch.equal(state[name], weights[name]) for name in taken)


def test_an_endless_sampler_starts_anywhere():
    def batches(skip, count=7):
        torch.manual_seed(0)
        sampler = torch.utils.data.BatchSampler(InfiniteSampler(range(5), seed=3), batch_size=2, drop_last=False)
        resumable = ResumableBatchSampler(sampler)
        next(iter(resumable))  # an abandoned iterator has no effect
        resumable.skip(skip)
        return [[(int(i), i.epoch) for i in batch] for batch in itertools.islice(resumable, count - skip)]

    whole = batches(0)
    assert [batch[0][1] for batch in whole] == list(range(7)), "every batch has draws of its own"
    assert sorted(i for batch in whole[:5] for i, _ in batch) == sorted([*range(5)] * 2)
    assert batches(3) == whole[3:]


def damage(tiles, folder, how):
    """Copy the tiles as JPEGs. The first training image of the copy is bad."""
    shutil.copytree(tiles, folder)
    for path in [*(folder / "train").iterdir(), *(folder / "val").iterdir()]:
        Image.open(path).save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    image = sorted((folder / "train").iterdir())[0]
    labels = folder / "train_labels" / f"{image.stem}.png"
    if how == "cut off":
        image.write_bytes(image.read_bytes()[:-40])
    elif how == "empty":
        image.write_bytes(b"")
    elif how == "text":
        image.write_text("no image")
    elif how == "no labels":
        labels.unlink()
    elif how == "label 3":
        Image.fromarray(np.full((64, 64), 3, np.uint8)).save(labels)
    elif how == "other size":
        Image.fromarray(np.zeros((32, 64), np.uint8)).save(labels)
    elif how == "coloured labels":
        Image.new("RGB", (64, 64), (200, 0, 30)).save(labels)
    return folder


BAD = {
    "cut off": "truncated",
    "empty": "the file is empty",
    "text": "it is no image",
    "no labels": "No such file",
    "label 3": "has the label 3, and there are 3 classes",
    "other size": r"label map is \(1, 32, 64\) and the image \(3, 64, 64\)",
    "coloured labels": r"its label map is in colours, such as \(200, 0, 30\)",
}


@pytest.mark.filterwarnings("ignore:Please pay attention your ground truth")
@pytest.mark.parametrize("how", BAD)
def test_bad_samples(tiles, tmp_path, how):
    cfg = point_at(configure("quadmamba", tmp_path), damage(tiles, tmp_path / "bad", how))
    settings = dict(cfg.train_dataloader.dataset, img_suffix=".jpg")
    settings["pipeline"] = [step for step in settings["pipeline"] if step["type"] != "RandomFlip"]
    with DefaultScope.overwrite_default_scope("mmseg"):
        dataset = DATASETS.build(settings)
    guarded = GuardedDataset(dataset)
    first, second = guarded[0], guarded[1]
    assert torch.equal(first["inputs"], second["inputs"])
    assert not second["data_samples"].metainfo[UNREADABLE_KEY]
    named = first["data_samples"].metainfo[UNREADABLE_KEY]
    assert named.startswith(guarded.name(0))
    with pytest.raises(DataError, match=f"cannot use the image .*{BAD[how]}"):
        GuardedDataset(dataset, "raise")[0]
    with pytest.raises(ConfigError, match="'skip' or 'raise', not 'ignore'"):
        GuardedDataset(dataset, "ignore")


def test_bad_samples_are_counted(tiles, tmp_path):
    folder = damage(tiles, tmp_path / "bad", "label 3")
    next(iter(sorted((folder / "val").iterdir()))).write_bytes(b"")
    suffix = [f"{part}_dataloader.dataset.img_suffix=.jpg" for part in ("train", "val", "test")]
    result = run.train(point_at(configure("quadmamba", tmp_path / "run", *suffix), folder))
    log = next((tmp_path / "run").glob("*/*.log")).read_text()
    assert log.count("cannot use the image") == 1
    assert "1 training images could not be used" in log
    assert "1 of 2 images could not be used and are not in the metrics" in log
    assert len(result.curves["val"]) == 2
    cfg = point_at(configure("quadmamba", tmp_path / "strict", *suffix, "train_dataloader.unreadable=raise"), folder)
    with pytest.raises(DataError, match="has the label 3"):
        run.train(cfg)


def test_nothing_but_bad_samples(tiles, tmp_path):
    folder = damage(tiles, tmp_path / "bad", "empty")
    for path in (folder / "train").iterdir():
        path.write_bytes(b"")
    suffix = [f"{part}_dataloader.dataset.img_suffix=.jpg" for part in ("train", "val", "test")]
    with pytest.raises(DataError, match="not one of 4 images in a row can be used"):
        run.train(point_at(configure("quadmamba", tmp_path / "run", *suffix), folder))


def test_samples_of_other_tasks_have_no_data_elements():
    assert data_samples_of({"data_samples": {"label": torch.zeros(2), UNREADABLE_KEY: ["", ""]}}) == []


def test_no_loading_process_is_left(tiles, tmp_path):
    kept = [
        f"{part}_dataloader.{key}"
        for part in ("train", "val", "test")
        for key in ("num_workers=1", "persistent_workers=True")
    ]
    cfg = point_at(configure("mambatree", tmp_path, *kept), tiles)
    before = multiprocessing.active_children()
    gc.disable()  # the run is part of a reference cycle, and its processes must end without garbage collection
    try:
        run.train(cfg)
        assert multiprocessing.active_children() == before
        run.test(cfg, tmp_path / "iter_2.pth")
        assert multiprocessing.active_children() == before
    finally:
        gc.enable()


def test_head_of_another_number_of_classes(tiles, tmp_path):
    cfg = point_at(configure("mambatree", tmp_path, "model.decode_head.num_classes=4"), tiles)
    words = "3 classes and the model 4 outputs: set model.decode_head.num_classes=3"
    with pytest.raises(ConfigError, match=f"{re.escape(words)}$"):
        run.train(cfg)


def test_heads_of_other_numbers_of_classes(tiles, tmp_path):
    heads = ("model.decode_head.num_classes=4", "model.auxiliary_head.num_classes=5")
    words = "4 and 5 outputs: set model.decode_head.num_classes=3 model.auxiliary_head.num_classes=3"
    with pytest.raises(ConfigError, match=f"{re.escape(words)}$"):
        run.train(point_at(configure("mambatree", tmp_path, *heads), tiles))
