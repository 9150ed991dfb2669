"""What the weights of a model were trained on, and whether the classes that it names say anything about a photo.

A classifier names one of its classes whatever it is shown, and often with much confidence. The page therefore shows no
classes for a photo that is plainly unlike the images of the training.
"""

from typing import NamedTuple

import numpy as np

from ssm_train.apis.explore.examples import known_photo
from ssm_train.apis.open_model import OpenedModel
from ssm_train.data.datasets.fashion_mnist import CLASSES as GARMENTS
from ssm_train.data.prepare.photo_crops import CLASSES as PHOTOS

_DIGITS = [str(digit) for digit in range(10)]
_GREY = 0.04  # mean difference of the channels of an image, of 0 … 1, below which it is grey
_BLACK = 0.15  # median of the pixels at its edges below which its background is black


class Training(NamedTuple):
    """What is said about the training of a model.

    Attributes:
        words: a sentence or two for the reader.
        classes: the names of the classes that it tells apart; empty if they are not known.
    """

    words: str
    classes: list[str]


class Verdict(NamedTuple):
    """What is said about the classes of a photo.

    Attributes:
        applies: whether the classes are shown.
        words: a sentence or two for the reader.
    """

    applies: bool
    words: str


def training_of(opened: OpenedModel) -> Training:
    """What the weights of a model were trained on."""
    scale, names = opened.normalization, _names(opened)
    if not opened.trained:
        return Training("Random weights. They show what the network does before it has learned anything.", [])
    size = f"in {scale.side} × {scale.side} pixels"
    if not opened.has_head:
        return Training(f"Trained on images {size}. The page knows only its backbone, which names no classes.", [])
    if not names:
        count = opened.network.num_classes
        return Training(f"Trained on images {size}, to tell {count} classes apart that the file does not name.", [])
    if names == list(PHOTOS):
        return Training(f"Trained on crops of {len(names)} photos {size}, to say which photo a crop comes from.", names)
    if names == list(GARMENTS):
        return Training(f"Trained on Fashion-MNIST {size}: grey pictures of light garments on black.", names)
    return Training(f"Trained on images {size}, to tell {len(names)} classes apart.", names)


def verdict_on(
    opened: OpenedModel,
    image: np.ndarray,  # [H, W, 3] or [H, W], 0 … 1
) -> Verdict:
    """Judge whether the classes of a model say anything about a photo.

    Args:
        opened: the model.
        image: the photo, in any size.
    """
    if not opened.has_head:
        return Verdict(False, "")
    names = _names(opened)
    if names == list(PHOTOS):
        found = known_photo(image)
        if found is None:
            return Verdict(
                False,
                f"This photo is none of the {len(names)}. Any class would be wrong, so none is shown.",
            )
        return Verdict(
            True,
            f"This photo is “{found}”. The network was trained on its upper part, so that a right answer shows memory "
            "rather than understanding.",
        )
    if names in (list(GARMENTS), _DIGITS) and not is_light_on_black(image):
        kind = "garments" if names == list(GARMENTS) else "digits"
        return Verdict(False, f"This photo is no light picture on black, as those {kind} were. No class is shown.")
    return Verdict(True, "It names one of its classes whatever a photo shows. Of anything else the list says nothing.")


def is_light_on_black(
    image: np.ndarray,  # [H, W, 3] or [H, W], 0 … 1
) -> bool:
    """Whether an image is grey and most of its edge is black, as the images of MNIST and of Fashion-MNIST are."""
    colours = image if image.ndim == 3 else image[..., None]
    edge = np.concatenate([part.ravel() for part in (colours[0], colours[-1], colours[:, 0], colours[:, -1])])
    return bool(np.ptp(colours, axis=2).mean() < _GREY and np.median(edge) < _BLACK)


def _names(opened: OpenedModel) -> list[str] | None:
    return [str(name) for name in opened.classes] if opened.trained and opened.classes else None
