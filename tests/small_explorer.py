"""Small checkpoints, photos and a served page for the tests of the explorer."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from quadtree_ssm import QuadMamba
from ssm_train.apis.explore import Address, Explorer, open_models, served
from ssm_train.data.prepare.photo_crops import CLASSES as PHOTOS
from tree_ssm import MambaTreeV

DEPTHS, DIMS, SIDE = (1, 1, 2, 1), (16, 16, 16, 16), 96
CLASSES = [f"animal {i}" for i in range(6)] + ["<b>seventh</b>"]


def write_checkpoint(path, kind, classes=CLASSES, seed=0):
    """Write a checkpoint in the form that training gives it. The model is small and was never trained."""
    torch.manual_seed(seed)
    sizes = {"depths": DEPTHS, "dims": DIMS, "num_classes": len(classes)}
    name = f"{kind.__module__.split('.')[0]}.{kind.__name__}"
    meta = {
        "model": {"type": "ImageClassifier", "backbone": {"type": name, **sizes}},
        "test_transform": {"type": "TestTransform", "size": SIDE},
        "dataset_meta": {"classes": list(classes)},
    }
    state = {f"backbone.{key}": value for key, value in kind(**sizes).state_dict().items()}
    torch.save({"state_dict": state, "meta": meta}, path)
    return str(path)


def write_checkpoints(folder):
    """Write two of MambaTree, of which the first names the example photos as its classes, and one of QuadMamba."""
    return [
        write_checkpoint(folder / "MambaTreeV.pth", MambaTreeV, PHOTOS),
        write_checkpoint(folder / "second.pth", MambaTreeV, seed=1),
        write_checkpoint(folder / "QuadMamba.pth", QuadMamba),
    ]


def write_photos(folder):
    """Write a photo, and files that are not photos."""
    from skimage import data

    cat = Image.fromarray(data.chelsea())
    cat.save(folder / "cat.png")
    (folder / "text.png").write_text("no picture")
    (folder / "cut.png").write_bytes((folder / "cat.png").read_bytes()[:9000])
    (folder / "large.png").write_bytes(np.random.RandomState(0).bytes(600_000))
    return folder


def explorer(checkpoints, **options):
    """Open the models of checkpoints."""
    return Explorer(open_models(checkpoints), max_megapixels=1, **options)


@contextmanager
def served_page(checkpoints):
    """Serve the page as the tool does, to this machine on a free port."""
    with served(explorer(checkpoints), Address(), max_upload="500kb") as page:
        yield page.url


def examples(folder: Path):
    """Return the example photos by their names."""
    from ssm_train.apis.explore.examples import write_examples

    return {example.name: example.path for example in write_examples(folder)}
