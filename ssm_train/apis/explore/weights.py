"""The models of the page: those that a command line names, and others to compare them with."""

from collections.abc import Sequence
from typing import NamedTuple

# Once they are imported, timm knows the models of both families.
import quadtree_ssm  # noqa: F401
import tree_ssm  # noqa: F401
from ssm_core.errors import ConfigError
from ssm_train.apis.open_model import OpenedModel, open_model, open_stand_in
from ssm_train.data.normalization import Normalization


class Family(NamedTuple):
    """What the page has of a family if nothing else is named.

    Attributes:
        config: a config whose weights come with the package; they were trained on photos.
        timm: timm's name of a model, which is opened with random weights.
    """

    config: str
    timm: str


# By the class of the network.
FAMILIES = {
    "MambaTreeV": Family("mambatree/mambatree-nano_photos-224x224", "mambatree_nano"),
    "QuadMamba": Family("quadmamba/quadmamba-nano_photos-224x224", "quadmamba_nano"),
}
_PHOTOS = (1, 3)  # numbers of channels of images that models for photos can read, too


def family_of(opened: OpenedModel) -> str:
    """The name of the class of its network."""
    return type(opened.network).__name__


def open_models(sources: Sequence[str]) -> list[OpenedModel]:
    """Open the models that a command line names, and for each family what they are compared with.

    A family of which nothing is named gets the weights that come with the package and were trained on photos. Every
    family with trained weights also gets a model with random ones, which shows what training has changed.

    Args:
        sources: see :func:`.open_model.open_model`; any number of each family.

    Returns:
        The models of one family after those of the other, and random ones after trained ones.

    Raises:
        CheckpointError: a file cannot be used.
        ConfigError: a model is of neither family.
    """
    named = [open_model(source) for source in sources]
    for source, opened in zip(sources, named, strict=True):
        if family_of(opened) not in FAMILIES:
            raise ConfigError(f"{source} is a {family_of(opened)}: the page is for {' and '.join(FAMILIES)}")
    like = named[0].normalization if named else None
    models = []
    for name, family in FAMILIES.items():
        found = [opened for opened in named if family_of(opened) == name] or [_trained_on_photos(family, like)]
        models += found
        if any(opened.trained for opened in found):
            models.append(_random(family, found[0].normalization))
    return models


def _trained_on_photos(family: Family, like: Normalization | None) -> OpenedModel:
    if like is None:
        return open_model(family.config)
    if like.channels not in _PHOTOS:
        return _random(family, like)
    opened = open_model(family.config)
    # The same files are read for all models. What is black and white in them does not depend on the model.
    return opened._replace(normalization=opened.normalization._replace(value_range=like.value_range))


def _random(family: Family, like: Normalization) -> OpenedModel:
    return open_stand_in(family.timm, like)._replace(normalization=like)
