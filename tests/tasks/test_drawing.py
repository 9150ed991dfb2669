"""What pictures of detections and label maps contain: colours, edges, names that hide nothing, legends."""

import numpy as np
import pytest
import torch
from colour_vision import BLINDNESS, closest, seen
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from PIL import Image
from skimage import data as photos
from small_tasks import TASKS

from ssm_train.runtime.config import load_config
from ssm_train.tasks import image_task_of
from ssm_train.tasks.base import Labels
from ssm_train.tasks.detection import visualizer
from ssm_train.tasks.drawing import DrawnObject, class_colours, draw_label_map, draw_objects, place_labels
from ssm_train.tasks.drawing.colours import readable_on
from ssm_train.tasks.drawing.text import label_size, letter_size

BLUE, ORANGE = class_colours(2)


@pytest.mark.parametrize("kind", [None, *BLINDNESS])
def test_the_first_ten_classes_are_told_apart(kind):
    """A difference of 1 is just noticeable. Two of the ten colours of tab10 have 1.3 for people with protanopia."""
    colours = np.array(class_colours(10)) / 255
    assert closest(colours if kind is None else seen(colours, kind)) > 10
    assert len(set(class_colours(30))) == 30


def test_a_palette_comes_first():
    assert class_colours(3, [(1, 2, 3), [4, 5, 6]]) == [(1, 2, 3), (4, 5, 6), class_colours(3)[2]]
    assert class_colours(1, [(1, 2, 3), (4, 5, 6)]) == [(1, 2, 3)]
    assert readable_on((255, 255, 0)) == (0, 0, 0)
    assert readable_on((0, 0, 120)) == (255, 255, 255)


def shared(some, others):
    """The area that each of some rectangles shares with each of others, counted pixel by pixel."""

    def pixels(box):
        mask = np.zeros((130, 200), bool)
        left, top, right, bottom = box
        mask[top:bottom, left:right] = True
        return mask

    return np.array([[(pixels(a) & pixels(b)).sum() for b in others] for a in some])


@pytest.mark.parametrize("seed", range(5))
def test_labels_hide_neither_each_other_nor_objects(seed):
    draw = np.random.default_rng(seed)
    start, side = draw.integers(0, (180, 110), (40, 2)), draw.integers(3, 60, (40, 2))
    boxes = np.concatenate([start, np.minimum(start + side, (200, 130))], axis=1)
    sizes = [(int(draw.integers(15, 60)), 11) for _ in boxes]
    places = place_labels(boxes, sizes, (130, 200))
    found = [(place, size) for place, size in zip(places, sizes, strict=True) if place is not None]
    assert len(found) > 5
    labels = [place for place, _ in found]
    assert all((r - left, b - t) == size for (left, t, r, b), size in found)
    assert all(left >= 0 and t >= 0 and r <= 200 and b <= 130 for left, t, r, b in labels)
    overlaps = shared(labels, labels)
    np.fill_diagonal(overlaps, 0)
    assert not overlaps.any()
    areas = shared(boxes, boxes).diagonal()
    assert (shared(labels, boxes) <= 0.3 * areas).all()
    if places[0] is None:
        return
    # The label of the first object is at its box.
    left, top, right, bottom = (int(v) for v in boxes[0])
    assert shared([places[0]], [(max(left - 1, 0), max(top - 1, 0), right + 1, bottom + 1)])[0, 0] > 0


def test_every_label_has_a_place_where_there_is_room():
    boxes = [(20 + 60 * i, 30 + 50 * j, 40 + 60 * i, 45 + 50 * j) for i in range(3) for j in range(2)]
    places = place_labels(boxes, [(30, 11)] * 6, (130, 200))
    assert [(left, bottom) for left, _, _, bottom in places] == [(box[0], box[1]) for box in boxes], "above the objects"
    assert place_labels(boxes[:1], [(300, 11)], (130, 200)) == [None], "wider than the picture"


def grey(height, width):
    return np.full((height, width, 3), 120, np.uint8)


def test_masks_are_transparent_with_an_edge_in_the_colour_of_the_class():
    mask = np.zeros((512, 512), bool)
    mask[200:300, 150:400] = True
    drawn = np.array(draw_objects(grey(512, 512), [DrawnObject("a", BLUE, (150, 200, 400, 300), 0.9, mask)]))
    mixed = np.round(0.65 * 120 + 0.35 * np.array(BLUE))
    assert (drawn[210:290, 160:390] == mixed).all()
    for edge in (drawn[200:202, 250:400], drawn[298:300, 150:400], drawn[200:300, 150:152], drawn[200:300, 398:400]):
        assert (edge == BLUE).all()
    width, height = label_size("a 0.90", letter_size(512, 512))
    label = drawn[200 - height : 200, 150 : 150 + width]
    assert (label == BLUE).all(-1).mean() > 0.5
    drawn[200 - height : 300, 150:400] = 120
    assert (drawn == 120).all(), "nothing is drawn elsewhere"


def test_a_small_object_is_over_a_large_one():
    whole, part = np.ones((300, 300), bool), np.zeros((300, 300), bool)
    part[100:120, 100:130] = True
    small = DrawnObject("b", ORANGE, (100, 100, 130, 120), 0.4, part)
    large = DrawnObject("a", BLUE, (0, 0, 300, 300), 0.9, whole)
    for order in ([small, large], [large, small]):
        drawn = np.array(draw_objects(grey(300, 300), order))
        assert (drawn[119, 101:129] == ORANGE).all()


def test_lines_and_letters_grow_with_the_picture():
    boxes = {}
    for factor in (1, 3):
        found = DrawnObject("a", ORANGE, tuple(factor * v for v in (100, 200, 400, 300)))
        drawn = np.array(draw_objects(grey(512 * factor, 512 * factor), [found]))
        boxes[factor] = (drawn[:, 300 * factor] == ORANGE).all(-1).sum()  # both lines of the box, right of the name
    assert boxes == {1: 2 * 2, 3: 2 * 6}
    assert [letter_size(side, 2 * side) for side in (100, 512, 1024, 5000)] == [11, 14, 28, 30]


def crowd(count, seed=0):
    """Objects of two classes in squares of 14 pixels, anywhere in a picture of 512×512."""
    draw = np.random.default_rng(seed)
    start = draw.integers(0, 490, (count, 2))
    classes = [("cell", BLUE), ("dust", ORANGE)] * count
    return [
        DrawnObject(name, colour, (x, y, x + 14, y + 14), float(draw.random()))
        for (x, y), (name, colour) in zip(start, classes, strict=False)
    ]


@pytest.mark.parametrize("count", [45, 300])
def test_a_crowd_is_not_buried(count):
    """All objects are seen, and the legend says what they are. There are scores as long as they have room."""
    objects = crowd(count)
    picture = draw_objects(grey(512, 512), objects)
    drawn = np.array(picture)
    frames = np.zeros((512, 512), bool)
    for found in objects:
        left, top, right, bottom = (round(v) for v in found.box)
        assert (drawn[top:bottom, left:right] == found.colour).all(-1).any(), "each object is seen"
        frames[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = True
    assert picture.height > 512
    legend = drawn[512:]
    assert [(legend == colour).all(-1).sum() for colour in (BLUE, ORANGE)] == [12 * 12] * 2, "a square each"
    covered = (drawn[:512] != 120).any(-1) & ~frames
    assert covered.mean() < 0.15
    assert covered.any() == (count == 45)
    assert draw_objects(grey(512, 512), objects[:1]).height == 512, "an object that has its name needs no legend"
    assert draw_objects(grey(512, 512), objects, named=False).height == 512


def test_label_maps_are_transparent_with_lines_and_a_legend():
    image = photos.coffee()
    height, width = image.shape[:2]
    labels = np.zeros((height, width), np.int64)
    labels[100:200, 150:450] = 1
    labels[:50] = 255
    picture = np.array(draw_label_map(image, labels, ["ground", "cup", "spoon"], [(0, 0, 0), BLUE, ORANGE], 0.4))
    assert picture.shape[1] == width
    in_grey = np.array(Image.fromarray(image).convert("L").convert("RGB"), dtype=np.int64)
    assert abs(picture[:48] - in_grey[:48]).max() <= 1, "pixels without a class are not painted"
    assert abs(picture[60:95] - in_grey[60:95]).max() <= 1, "and no class whose colour is black"
    inside = np.round(in_grey[105:195, 155:445] * 0.6 + np.array(BLUE) * 0.4)
    assert abs(picture[105:195, 155:445] - inside).max() <= 1
    for line in (picture[100, 150:450], picture[200, 150:450], picture[100:200, 150], picture[100:200, 450]):
        assert (line == 255).all()
    legend = picture[height:]
    assert (legend == BLUE).all(-1).any()
    assert not (legend == ORANGE).all(-1).any(), "the legend has the classes of the picture alone"
    np.testing.assert_array_equal(draw_label_map(image, labels, ["a", "b"], [BLUE, ORANGE], 0), image)
    bare = draw_label_map(image, labels, ["ground", "cup", "spoon"], [(0, 0, 0), BLUE, ORANGE], 0.4, named=False)
    np.testing.assert_array_equal(bare, picture[:height])


@pytest.fixture
def task(tmp_path):
    small = TASKS["detection"](tmp_path / "data")
    return image_task_of(load_config(small.config, small.options))


def found_in(path, count=3):
    masks = torch.zeros(count, 60, 60, dtype=torch.bool)
    for i in range(count):
        masks[i, 10 * i : 10 * i + 20, 15 * i : 15 * i + 20] = True
    boxes = torch.tensor([[15.0 * i, 10.0 * i, 15.0 * i + 20, 10.0 * i + 20] for i in range(count)])
    objects = InstanceData(bboxes=boxes, labels=torch.arange(count) % 2, scores=torch.linspace(0.9, 0.4, count))
    objects.masks = masks
    return DetDataSample(metainfo={"ori_shape": (60, 60), "img_path": str(path)}, pred_instances=objects)


def test_colours_do_not_change_from_run_to_run(tmp_path, task):
    """mmdet moves the colours of masks by NumPy's random numbers, which begin elsewhere in each process."""
    Image.fromarray(grey(60, 60)).save(tmp_path / "grey.png")
    for seed in range(2):
        np.random.seed(seed)
        task.draw(
            tmp_path / "grey.png", found_in(tmp_path / "grey.png"), Labels(["disc", "box"], None), tmp_path / f"{seed}"
        )
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()
    drawn = np.array(Image.open(tmp_path / "0.png"))
    assert all((drawn == colour).all(-1).any() for colour in (BLUE, ORANGE))


def test_annotations_stand_beside_predictions(tmp_path, task):
    """Both parts have a caption above and a legend below, and objects of a low score are left out."""
    sample = found_in(tmp_path)
    sample.gt_instances = sample.pred_instances[:1]
    sample.gt_instances.pop("scores")
    task.visualizer.dataset_meta = {"classes": ["disc", "box"], "palette": None}
    task.visualizer.add_datasample("a", grey(60, 60), sample, out_file=str(tmp_path / "a.png"), pred_score_thr=0.8)
    drawn = np.array(Image.open(tmp_path / "a.png"))
    assert drawn.shape == (18 + 60 + 18, 2 * 60 + 5, 3)
    left, right = drawn[18:78, :60], drawn[18:78, 65:]
    for part in (left, right):
        assert (part[5:15, 5:15] == np.round(0.65 * 120 + 0.35 * np.array(BLUE))).any()
        assert not (part == ORANGE).all(-1).any()
    assert (drawn[:18, :60] < 100).any()
    assert (drawn[:18, 65:] < 100).any()
    assert (drawn[:, 60:65] == 255).all()


@pytest.mark.parametrize("name", ["two\nlines", "not utf-8: \udcff", "long " * 50, "", "靴"])
def test_any_name_is_drawn(name):
    drawn = np.array(draw_objects(grey(512, 512), [DrawnObject(name, BLUE, (150, 200, 400, 300), 0.9)]))
    assert drawn.shape == (512, 512, 3)
    labels = np.zeros((60, 60), np.int64)
    assert np.array(draw_label_map(grey(60, 60), labels, [name], [BLUE], 0.5)).shape[1] == 60


def test_boxes_outside_the_image_and_without_numbers(tmp_path, task):
    boxes = torch.tensor([[-50.0, -20, 30, 40], [20, 20, 900, torch.inf], [torch.nan, torch.nan, torch.nan, torch.nan]])
    found = InstanceData(bboxes=boxes, labels=torch.zeros(3).long(), scores=torch.ones(3))
    task.visualizer.dataset_meta = {"classes": ["disc"], "palette": "random"}
    sample = DetDataSample(pred_instances=found)
    task.visualizer.add_datasample("a", grey(60, 60), sample, draw_gt=False, out_file=str(tmp_path / "a.png"))
    drawn = np.array(Image.open(tmp_path / "a.png"))
    assert (drawn[2:18, 29] == BLUE).all(), "the right edge of the first box"
    assert (drawn[59, 21:59] == BLUE).all(), "the second box ends with the image"


def seen_in(path, colour):
    """Whether pixels of a picture, besides those of its legend, have a colour."""
    return (np.array(Image.open(path))[:60] == colour).all(-1).any()


@pytest.mark.parametrize("labels", [[-1], [-1, 0, 1], [2, 255, 10**15]], ids=str)
@pytest.mark.parametrize("classes", [["disc", "box"], None], ids=str)
def test_objects_without_a_known_class_are_drawn(tmp_path, task, monkeypatch, labels, classes):
    """They are named by their number, as mmdet names classes without a name, and -1 is no class from the end."""
    written = []
    monkeypatch.setattr(visualizer, "draw_objects", lambda image, objects, named: keep(written, image, objects, named))
    boxes = torch.tensor([[20.0 * i, 20.0 * i, 20.0 * i + 15, 20.0 * i + 15] for i in range(len(labels))])
    objects = InstanceData(bboxes=boxes, labels=torch.tensor(labels), scores=torch.ones(len(labels)))
    task.visualizer.dataset_meta = {"classes": classes, "palette": [BLUE, ORANGE]}
    for predicted in (True, False):
        sample = DetDataSample(**{"pred_instances" if predicted else "gt_instances": objects})
        task.visualizer.add_datasample("a", grey(60, 60), sample, out_file=str(tmp_path / "a.png"))
        names = {0: "disc", 1: "box"} if classes else {}
        assert [found.name for found in written.pop()] == [names.get(n, f"class {n}") for n in labels]
        assert seen_in(tmp_path / "a.png", (128, 128, 128)) == (-1 in labels)
        assert seen_in(tmp_path / "a.png", BLUE) == (0 in labels)
        assert seen_in(tmp_path / "a.png", class_colours(3)[2]) == (2 in labels)


def keep(written, image, objects, named):
    written.append(objects)
    return draw_objects(image, objects, named)


def test_the_name_of_a_number_that_is_no_class_is_the_number():
    labels = Labels(["disc", "box"], None)
    assert [labels.name(number) for number in (-1, 0, 1, 2)] == ["-1", "disc", "box", "2"]
