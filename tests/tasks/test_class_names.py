"""Tests that classes are compared by name between checkpoint, training, validation and test, in the three tasks."""

import csv
import itertools
import json
from pathlib import Path

import blobs
import numpy as np
import pytest
import runs
from command_line import CONFIGS
from mmengine.config import ConfigDict
from mmengine.dataset import RepeatDataset
from mmengine.registry import DefaultScope
from PIL import Image

from ssm_core.errors import ConfigError, DataError
from ssm_train.apis import train as run
from ssm_train.apis.browse import browse
from ssm_train.data.classes import class_counts
from ssm_train.data.guarded import guarded
from ssm_train.runtime.config import load_config
from ssm_train.tasks import image_task_of

NUMBER = itertools.count()  # mmengine shares loggers between runs of the same name and second
QUICK = (
    "visualizer.tensorboard=False", "default_hooks.curves.plot=False", "default_hooks.curves.interval=1",
    "default_hooks.pictures.count=0", "default_hooks.class_report.picture=False", "default_hooks.checkpoint.interval=1",
)  # fmt: skip
BACKBONE = ("model.backbone.depths=(1,1,1,1)", "model.backbone.dims=(8,16,16,16)")
pytestmark = pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False")


@pytest.fixture(autouse=True)
def _scope():
    """Leave mmengine's default scope as it was, which runs change."""
    with DefaultScope.overwrite_default_scope("ssm_train"):
        yield


def log_of(folder):
    return "".join(path.read_text() for path in Path(folder).rglob("*.log"))


class Classifying:
    """Discs and boxes, of which a CSV file says what they are."""

    half, end = "epoch_1.pth", "epoch_2.pth"

    @staticmethod
    def write(root):
        draw = np.random.RandomState(0)
        for split, count in (("train", 8), ("val", 8)):
            (root / split).mkdir()
            rows = [("image", "labels")]
            for number in range(count):
                name = blobs.CLASSES[number % 2]
                pixels = draw.randint(0, 60, (32, 32, 3)) + 150 * (number % 2)
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / f"{number}.png")
                rows.append((f"{number}.png", name if number else "box"))
            with (root / split / "list.csv").open("w", newline="") as file:
                csv.writer(file).writerows(rows)

    @staticmethod
    def configure(root, folder, train, val, *options):
        """Name the classes of the training and of the other data in these orders."""
        steps = ["train_cfg.max_epochs=2", "train_dataloader.batch_size=4", "default_hooks.logger.interval=1"]
        name = CONFIGS / "quadmamba/quadmamba-nano_digits.py"
        cfg = load_config(name, [*QUICK, *BACKBONE, *steps, f"model.backbone.num_classes={len(train)}", *options])
        cfg.param_scheduler = []
        for split, classes, loader in (
            ("train", train, cfg.train_dataloader), ("val", val, cfg.val_dataloader), ("val", val, cfg.test_dataloader),
        ):  # fmt: skip
            transform = {**loader.dataset.transform, "size": 32}
            file = f"{root}/{split}/list.csv"
            loader.dataset = ConfigDict(
                type="ImageList", file=file, mode="L", transform=transform, classes=classes, multi_label=False
            )
            loader.num_workers, loader.persistent_workers = 0, False
        return cfg

    @staticmethod
    def relabel(root, split, classes):
        """Do nothing, since the config has the order."""

    @staticmethod
    def out(folder):
        return folder / "out.csv"

    @staticmethod
    def predictions(out):
        with out.open() as file:
            return [{key: row[key] for key in sorted(row)} for row in csv.DictReader(file)]


class Detecting:
    """Discs and boxes with masks, whose categories have the order of the file."""

    end = "epoch_1.pth"

    @staticmethod
    def write(root):
        blobs.write(root, images=2)

    @staticmethod
    def configure(root, folder, train, val, *options):
        steps = ["train_cfg.max_epochs=1", "param_scheduler.1.end=1", "default_hooks.non_finite.interval=100"]
        steps += ["model.neck.in_channels=[8,16,16,16]", "model.test_cfg.rcnn.score_thr=0.0"]
        heads = [f"model.roi_head.{head}.num_classes={len(train)}" for head in ("bbox_head", "mask_head")]
        config = CONFIGS / "quadmamba" / "mask-rcnn_quadmamba-nano_nuclei-128x128.py"
        cfg = load_config(config, [*QUICK, *BACKBONE, *blobs.options(root), *steps, *heads, *options])
        Detecting.relabel(root, "train", train)
        Detecting.relabel(root, "val", val)
        return cfg

    @staticmethod
    def relabel(root, split, classes):
        """Write the categories in an order, and others if there are others."""
        content = json.loads((root / f"{split}.json").read_text())
        content["categories"] = [{"id": {"disc": 1, "box": 4}.get(name, 9), "name": name} for name in classes]
        known = {category["id"] for category in content["categories"]}
        for annotation in content["annotations"]:
            annotation["category_id"] = annotation["category_id"] if annotation["category_id"] in known else 9
        (root / f"{split}.json").write_text(json.dumps(content))

    @staticmethod
    def out(folder):
        return folder / "out.json"

    @staticmethod
    def predictions(out):
        return json.loads(out.read_text())


class Segmenting:
    """Discs and boxes on a ground, whose labels are numbered in the order of the config."""

    half, end = "iter_1.pth", "iter_2.pth"

    @staticmethod
    def write(root):
        draw = np.random.RandomState(0)
        for split in ("train", "val"):
            (root / split).mkdir()
            for number in range(2):
                image, objects = blobs.scene(draw, 64)
                Image.fromarray(image).save(root / split / f"{number}.png")
                for category, mask in objects:
                    np.save(root / split / f"{number}-{category}.npy", mask)
                np.save(root / split / f"{number}.npy", sum((c + 1) * m.astype(np.uint8) for c, m in objects))

    @staticmethod
    def configure(root, folder, train, val, *options):
        ends = ["train_cfg.max_iters=2", "train_cfg.val_interval=2"]
        ends += ["param_scheduler.0.end=1", "param_scheduler.1.begin=1", "param_scheduler.1.end=2"]
        heads = ["model.decode_head.in_channels=[8,16,16,16]", "model.auxiliary_head.in_channels=16"]
        heads += [f"model.{head}.num_classes={len(train) + 1}" for head in ("decode_head", "auxiliary_head")]
        heads += ["model.decode_head.channels=16", "model.auxiliary_head.channels=8"]
        name = CONFIGS / "quadmamba/upernet_quadmamba-nano_nuclei-128x128.py"
        cfg = load_config(name, [*QUICK, *BACKBONE, *ends, *heads, *options])
        for split, classes, loader in (
            ("train", train, cfg.train_dataloader), ("val", val, cfg.val_dataloader), ("val", val, cfg.test_dataloader),
        ):  # fmt: skip
            loader.dataset.data_root = str(root)
            colours = [(50 * len(name), 0, 0) for name in ("", *classes)]
            loader.dataset.metainfo = dict(classes=("ground", *classes), palette=colours)
            loader.num_workers, loader.persistent_workers, loader.batch_size = 0, False, 2
            Segmenting.relabel(root, split, classes)
        return cfg

    @staticmethod
    def relabel(root, split, classes):
        """Write the label maps with the numbers that the classes have in an order."""
        numbers = np.array(
            [0, *(classes.index(n) + 1 if n in classes else len(classes) for n in blobs.CLASSES)], np.uint8
        )
        (root / f"{split}_labels").mkdir(exist_ok=True)
        for number in range(2):
            labels = numbers[np.load(root / split / f"{number}.npy")]
            Image.fromarray(labels).save(root / f"{split}_labels" / f"{number}.png")

    @staticmethod
    def out(folder):
        return folder / "out"

    @staticmethod
    def predictions(out):
        return [np.array(Image.open(path)) for path in sorted(out.glob("*.png"))]


TASKS = {"classification": Classifying, "detection": Detecting, "segmentation": Segmenting}
SAME, TURNED, OTHERS = ("disc", "box"), ("box", "disc"), ("disc", "cone")


@pytest.fixture(scope="module", params=TASKS)
def trained(request, tmp_path_factory):
    """Train for some iterations. Return the task, the data, the folder and what came of it."""
    task, root, folder = TASKS[request.param], tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("run")
    task.write(root)
    with DefaultScope.overwrite_default_scope("ssm_train"):
        return task, root, folder, run.train(prepared(task, root, folder, SAME, SAME))


def prepared(task, root, folder, train, val, *options):
    cfg = task.configure(root, folder, list(train), list(val), f"experiment_name=names{next(NUMBER)}", *options)
    object.__setattr__(cfg, "_format_python_code", False)  # formatting would take a second per run
    cfg.work_dir = str(folder)
    return cfg


def losses(result):
    return [point["loss"] for point in result.curves["train"]]


def test_validation_data_of_another_order(trained, tmp_path):
    task, root, _, whole = trained
    result = run.train(prepared(task, root, tmp_path, SAME, TURNED))
    assert losses(result) == losses(whole)
    for ours, theirs in zip(result.curves["val"], whole.curves["val"], strict=True):
        assert {k: v for k, v in ours.items() if k != "time"} == {k: v for k, v in theirs.items() if k != "time"}
    words = "the validation data have the classes of the training data in another order"
    assert log_of(tmp_path).count(words) == 1


def test_test_data_of_another_order(trained, tmp_path):
    task, root, folder, _ = trained
    found = {}
    for name, classes in (("same", SAME), ("turned", TURNED)):
        place = tmp_path / name
        place.mkdir()
        cfg = prepared(task, root, place, SAME, classes)
        found[name] = run.test(cfg, folder / task.end, task.out(place)), task.predictions(task.out(place))
        assert ("the test data have the classes of the checkpoint" in log_of(place)) == (name == "turned")
    assert found["same"][0] == found["turned"][0]
    same, turned = found["same"][1], found["turned"][1]
    if task is Segmenting:  # the label maps have the numbers of the data's
        swapped = np.array([0, 2, 1], np.uint8)
        assert all(np.array_equal(swapped[a], b) for a, b in zip(same, turned, strict=True))
        assert any(a.any() for a in same)
    else:
        assert same == turned
    tables = [(tmp_path / name / "evaluation" / "test_classes.csv").read_text() for name in found]
    assert tables[0] == tables[1]


def test_other_classes_are_refused_with_both_lists(trained, tmp_path):
    task, root, folder, _ = trained
    ground = "ground, " if task is Segmenting else ""
    lists = rf"have the classes {ground}disc, cone and .* has {ground}disc, box: they must be the same"
    cfg = prepared(task, root, tmp_path, SAME, OTHERS) if task is not Classifying else _with_cones(root, tmp_path)
    with pytest.raises(ConfigError, match=f"the validation data {lists}"):
        run.train(cfg)
    with pytest.raises(ConfigError, match=f"the test data {lists}"):
        run.test(cfg, folder / task.end)


def _with_cones(root, folder):
    cfg = prepared(Classifying, root, folder, SAME, SAME)
    text = (root / "val" / "list.csv").read_text().replace("box", "cone")
    (root / "val" / "cones.csv").write_text(text)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.update(file=f"{root}/val/cones.csv", classes=list(OTHERS))
    return cfg


def test_a_training_from_weights_of_another_order(trained, tmp_path):
    """With the head of the checkpoint, the first loss is that of the same data in the checkpoint's order."""
    task, root, folder, _ = trained
    first = {}
    for name, classes in (("same", SAME), ("turned", TURNED)):
        options = [f"load_from={folder / task.end}", "train_dataloader.sampler.shuffle=False"]
        cfg = prepared(task, root, tmp_path / name, classes, classes, *options)
        first[name] = losses(run.train(cfg))[0]
        assert ("the training data have the classes of" in log_of(tmp_path / name)) == (name == "turned")
    assert first["same"] == first["turned"]


@pytest.mark.parametrize("trained", ["classification", "segmentation"], indirect=True)
def test_a_resumed_run_keeps_the_order(trained, tmp_path):
    task, root, folder, _ = trained
    run.train(prepared(task, root, tmp_path, TURNED, TURNED), folder / task.half)
    assert "have the classes of the run to resume in another order" in log_of(tmp_path)
    ends = [runs.last_state(place) for place in (folder, tmp_path)]
    assert runs.differing(*(end["state_dict"] for end in ends)) == []
    assert runs.differing(*(end["meta"]["dataset_meta"]["classes"] for end in ends)) == []


@pytest.mark.parametrize("trained", ["classification"], indirect=True)
def test_a_run_is_not_resumed_with_other_classes(trained, tmp_path):
    task, root, folder, _ = trained
    cfg = prepared(task, root, tmp_path, SAME, SAME)
    cfg.train_dataloader.dataset = _with_cones(root, tmp_path).val_dataloader.dataset
    with pytest.raises(
        ConfigError, match="the training data have the classes disc, cone and the run to resume has disc,"
    ):
        run.train(cfg, folder / task.half)


@pytest.mark.parametrize("trained", ["classification", "segmentation"], indirect=True)
def test_a_training_from_weights_of_other_classes(trained, tmp_path):
    task, root, folder, _ = trained
    classes = ("disc", "box", "cone")
    cfg = prepared(task, root, tmp_path, classes, classes, f"load_from={folder / task.end}")
    run.train(cfg)
    line = next(line for line in log_of(tmp_path).splitlines() if "was trained on other classes" in line)
    assert line.endswith("disc, box, cone): the layers that tell them apart start anew")


def test_wrapped_datasets_are_renumbered(tmp_path):
    Classifying.write(tmp_path)
    options = dict(transform=lambda image: image, file=str(tmp_path / "train" / "list.csv"), classes=list(SAME))
    lists = [ConfigDict(type="ssm_train.ImageList", **options)] * 2
    data = guarded(RepeatDataset(ConfigDict(type="ConcatDataset", datasets=lists), times=2))
    counts, labels = class_counts(data), [sample["data_samples"]["label"].tolist() for sample in (data[0], data[1])]
    task = image_task_of(load_config(CONFIGS / "quadmamba/quadmamba-nano_digits.py"))
    task.renumber(data, list(TURNED))
    assert data.metainfo["classes"] == list(TURNED)
    assert class_counts(data) == counts[::-1]
    assert [sample["data_samples"]["label"].tolist()[::-1] for sample in (data[0], data[1])] == labels


# --- Joined datasets


def joined(task, folder, tmp_path, classes, splits):
    """Join the data of a task with others that have these classes, in some loaders."""
    roots = [tmp_path / "first", tmp_path / f"second-{'-'.join(classes)}"]
    for root in roots:
        if not root.exists():
            root.mkdir()
            task.write(root)
    second = task.configure(roots[1], folder, list(classes), list(classes)) if task is not Classifying else None
    cfg = prepared(task, roots[0], folder, SAME, SAME, "train_dataloader.sampler.shuffle=False")
    for split in splits:
        loader = cfg[f"{split}_dataloader"]
        if task is Classifying:
            other = ConfigDict(**{**loader.dataset, "file": f"{roots[1]}/{split}/list.csv", "classes": list(classes)})
        else:
            other = second[f"{split}_dataloader"].dataset
        loader.dataset = ConfigDict(type="ConcatDataset", datasets=[loader.dataset, other])
    return cfg


@pytest.mark.parametrize("name", TASKS)
def test_joined_data_of_another_order(name, tmp_path):
    task, found = TASKS[name], {}
    splits = ("train",) if task is Detecting else ("train", "val")
    for order in (SAME, TURNED):
        folder = tmp_path / f"run-{order[0]}"
        found[order] = run.train(joined(task, folder, tmp_path, order, splits))
        words = "the training data are joined of datasets with the same classes in another order"
        assert log_of(folder).count(words) == (order == TURNED)
    assert losses(found[SAME]) == losses(found[TURNED])
    figures = [
        [{key: value for key, value in point.items() if key != "time"} for point in result.curves["val"]]
        for result in found.values()
    ]
    assert figures[0] == figures[1]


@pytest.mark.parametrize("name", TASKS)
def test_joined_data_of_other_classes(name, tmp_path):
    task = TASKS[name]
    cfg = joined(task, tmp_path / "run", tmp_path, OTHERS, ("train",))
    if task is Classifying:
        for path in tmp_path.glob("second-*/train/list.csv"):
            path.write_text(path.read_text().replace("box", "cone"))
    ground = "ground, " if task is Segmenting else ""
    with pytest.raises(
        ConfigError,
        match=f"the training data are joined of datasets, of which number 2 has the classes {ground}disc, cone and the "
        f"first has {ground}disc, box: they must be the same",
    ):
        run.train(cfg)
    with pytest.raises(ConfigError, match="the data of train_dataloader are joined of datasets, of which number 2"):
        browse(cfg, "train", tmp_path / "seen", count=1)


def test_detections_are_compared_with_one_file(tmp_path):
    with pytest.raises(ConfigError, match="these data are joined of several datasets: join their files"):
        run.train(joined(Detecting, tmp_path / "run", tmp_path, SAME, ("val",)))


def test_label_maps_of_joined_data_are_counted(tmp_path):
    """Masks of 0 and 255 in both parts end the training, and in one part alone they do not."""
    for broken in ((), ("second-disc-box",), ("first", "second-disc-box")):
        cfg = joined(Segmenting, tmp_path / f"run{len(broken)}", tmp_path, SAME, ("train",))
        for part in broken:
            for path in (tmp_path / part / "train_labels").glob("*.png"):
                Image.fromarray(np.uint8(255) * (np.array(Image.open(path)) > 0)).save(path)
        if len(broken) < 2:
            run.train(cfg)
        else:
            with pytest.raises(DataError, match="nothing can be learnt: no pixel of disc, box in 4 label maps"):
                run.train(cfg)
