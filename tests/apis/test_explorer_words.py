"""Tests of what the explorer says: which models it opens, what they were trained on, and when classes are shown."""

import numpy as np
import pytest
from PIL import Image
from small_explorer import CLASSES, SIDE, examples, explorer, write_checkpoint

from quadtree_ssm import QuadMamba
from ssm_core.errors import ConfigError, DataError
from ssm_train.apis.explore import open_models
from ssm_train.apis.explore.answers import View, block_of, blocks_of, photo_parts
from ssm_train.apis.explore.examples import NAMES, UNSEEN, known_photo
from ssm_train.apis.explore.knowledge import is_light_on_black, training_of, verdict_on
from ssm_train.data.datasets.fashion_mnist import CLASSES as GARMENTS
from ssm_train.data.normalization import Normalization
from ssm_train.data.prepare.photo_crops import CLASSES as PHOTOS
from ssm_train.data.prepare.photos import load_photo
from tree_ssm import MambaTreeV

VIEW = View(1.0, 0, None, "stage 1, block 1", 3, None, "stage 1, block 1")


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    return {
        name: np.asarray(Image.open(path), float) / 255
        for name, path in examples(tmp_path_factory.mktemp("examples")).items()
    }


def test_models_of_both_families_and_random_ones(checkpoints):
    models = open_models(checkpoints)
    assert [opened.title for opened in models] == [
        "MambaTreeV, MambaTreeV.pth", "MambaTreeV, second.pth", "mambatree_nano, random weights, seed 0",
        "QuadMamba, QuadMamba.pth", "quadmamba_nano, random weights, seed 0",
    ]  # fmt: skip
    assert [opened.trained for opened in models] == [True, True, False, True, False]
    scale = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), SIDE)
    assert [opened.normalization for opened in models] == [scale] * 5


def test_a_family_that_is_not_named_has_weights_for_photos(checkpoints):
    """They are the weights that come with the package, or random ones if none come with it."""
    models = open_models([checkpoints[2]])
    assert models[0].title.startswith("mambatree-nano_photos-224x224, ")
    assert models[0].normalization.side == 224
    assert type(models[0].network) is MambaTreeV
    first, second = (opened for opened in open_models([]) if "photos" in opened.title)
    assert (type(first.network), type(second.network)) == (MambaTreeV, QuadMamba)


def test_models_of_no_family():
    with pytest.raises(ConfigError, match="resnet10t is a ResNet: the page is for MambaTreeV and QuadMamba"):
        open_models(["resnet10t"])


def test_captions_of_blocks(checkpoints):
    models = open_models(checkpoints)
    blocks = ["stage 1, block 1", "stage 2, block 1", "stage 3, block 1", "stage 3, block 2", "stage 4, block 1"]
    assert list(blocks_of(models[0])) == blocks
    assert list(blocks_of(models[3])) == blocks[:2], "the later stages of QuadMamba have no quadtree"
    assert block_of(models[0], "stage 3, block 2") == "stages.2.blocks.1.mixer.scan"
    assert block_of(models[0], "stage 3, block 9") == "stages.2.blocks.1.mixer.scan"
    assert block_of(models[3], "stage 4, block 1") == "stages.1.blocks.0.mixer.scan"


def test_files_that_are_no_photo(checkpoints, photos):
    pages = explorer(checkpoints)
    with pytest.raises(DataError, match=r"^cannot read the image text.png: it is no image$"):
        pages.look(photos / "text.png")
    with pytest.raises(DataError, match=r"^cannot read the image cut.png: .+$"):
        pages.look(photos / "cut.png")
    pages.max_megapixels = 0.1
    with pytest.raises(DataError, match=r"451 × 300 pixels: at most 0\.1 megapixels"):
        pages.look(photos / "cat.png")


def test_only_chosen_models_are_asked(checkpoints, photos):
    pages = explorer(checkpoints)
    photo = pages.look(photos / "cat.png", which=[3])
    assert list(photo.seen) == [3]
    again = pages.see(photo, 3)
    assert again is photo.seen[3]
    assert sum(again.classes.values()) == pytest.approx(1)
    assert list(again.classes) == CLASSES
    assert pages.see(photo, 4).classes is None, "random weights name no classes"
    (photos / "other.png").write_bytes((photos / "cat.png").read_bytes())
    gone = pages.look(photos / "other.png", which=[0])
    (photos / "other.png").unlink()
    with pytest.raises(DataError, match=r"other\.png"):
        pages.see(gone, 3)


def test_the_examples_are_photos_of_the_classes_and_one_other(shown):
    assert tuple(shown) == NAMES
    for name, image in shown.items():
        assert known_photo(image) == (None if name == UNSEEN else name)


@pytest.mark.parametrize("name", sorted(PHOTOS))
def test_photos_are_known_as_a_whole_and_not_in_part(name):
    photo = Image.fromarray(load_photo(PHOTOS[name]))
    small = np.asarray(photo.resize((photo.width // 2, photo.height // 2)), float) / 255
    assert known_photo(small) == name
    assert known_photo(1 - small) is None
    assert known_photo(small[: len(small) // 2]) is None
    assert known_photo(np.random.RandomState(0).rand(*small.shape)) is None
    assert known_photo(np.full_like(small, small.mean())) is None
    assert known_photo(small[:, ::-1]) is None


def test_what_weights_were_trained_on(checkpoints, tmp_path):
    models = open_models([*checkpoints, write_checkpoint(tmp_path / "g.pth", MambaTreeV, GARMENTS)])
    words = [training_of(opened) for opened in models]
    size = f"{SIDE} × {SIDE} pixels"
    assert words[0].words == f"Trained on crops of 15 photos in {size}, to say which photo a crop comes from."
    assert words[0].classes == list(PHOTOS)
    assert words[1] == (f"Trained on images in {size}, to tell 7 classes apart.", CLASSES)
    assert words[2] == (
        f"Trained on Fashion-MNIST in {size}: grey pictures of light garments on black.", list(GARMENTS)
    )  # fmt: skip
    assert words[3].words.startswith("Random weights.")
    nameless = models[1]._replace(classes=None)
    assert "7 classes apart that the file does not name" in training_of(nameless).words
    models[1].network.num_classes = 0
    assert "names no classes" in training_of(models[1]).words


def test_no_classes_for_photos_that_a_model_cannot_know(checkpoints, tmp_path, shown):
    garments = write_checkpoint(tmp_path / "g.pth", MambaTreeV, GARMENTS)
    of_photos, of_animals, of_garments, random = open_models([*checkpoints[:2], garments])[:4]
    assert verdict_on(of_photos, shown["coffee"]).applies
    assert "This photo is “coffee”." in verdict_on(of_photos, shown["coffee"]).words
    refused = verdict_on(of_photos, shown[UNSEEN])
    assert not refused.applies
    assert refused.words == "This photo is none of the 15. Any class would be wrong, so none is shown."
    assert verdict_on(of_animals, shown[UNSEEN]).applies
    assert "names one of its classes whatever a photo shows" in verdict_on(of_animals, shown[UNSEEN]).words
    assert not verdict_on(of_garments, shown["chelsea"]).applies
    assert not verdict_on(of_garments, shown["camera"]).applies
    assert not verdict_on(random, shown["chelsea"]).applies


def test_pictures_like_garments():
    shirt = np.zeros((28, 28))
    shirt[6:22, 8:20] = 0.8
    assert is_light_on_black(shirt)
    assert is_light_on_black(np.repeat(shirt[..., None], 3, 2))
    assert not is_light_on_black(1 - shirt)
    assert not is_light_on_black(shirt[..., None] * np.array([1, 0.2, 0.2]))


def test_the_cards_of_the_models(checkpoints, photos, tmp_path):
    """Names from a checkpoint are text on the page, whatever they are."""
    pages = explorer(checkpoints)
    card = photo_parts(pages, pages.look(photos / "cat.png"), (20, 30), VIEW)["models"]
    assert "&lt;b&gt;seventh&lt;/b&gt;" in card
    assert "<b>seventh" not in card
    assert card.count('<ol class="classes">') == 2
    other = examples(tmp_path)[UNSEEN]
    card = photo_parts(pages, pages.look(other), (20, 30), VIEW)["models"]
    assert card.count('<ol class="classes">') == 1, "of the photos' classes none is shown"
    assert "none of the 15" in card
