"""What the page shows: from a photo, a pixel and the settings of the page to the values of its parts."""

from collections.abc import Mapping
from html import escape
from typing import Any, NamedTuple

from PIL import Image

from quadtree_ssm.modules import QuadtreeScan
from ssm_core.visualization import caption
from ssm_train.apis.explore import pictures
from ssm_train.apis.explore.knowledge import training_of, verdict_on
from ssm_train.apis.explore.looking import Explorer, Photo, Pixel
from ssm_train.apis.explore.weights import FAMILIES, family_of
from ssm_train.apis.open_model import OpenedModel
from tree_ssm.modules import TreeScan

TREES, QUADTREES = FAMILIES
_TOP = 5  # classes that are shown with their probabilities
_LISTED = 100  # classes whose names are listed
_SMALL = 0.45  # size of the pictures of all blocks, as a share of the others


class View(NamedTuple):
    """The settings of the page.

    Attributes:
        contrast: exponent of the colour scale of affinities.
        tree: the number of the MambaTree model.
        other_tree: the number of the model that it is compared with; None for none.
        tree_block: the caption of the block.
        quadtree: the number of the QuadMamba model.
        other_quadtree: the number of the model that it is compared with; None for none.
        quadtree_block: the caption of the block.
    """

    contrast: float
    tree: int
    other_tree: int | None
    tree_block: str
    quadtree: int
    other_quadtree: int | None
    quadtree_block: str

    @property
    def models(self) -> list[int]:
        """The numbers of all models whose pictures are shown."""
        chosen = (self.tree, self.other_tree, self.quadtree, self.other_quadtree)
        return list(dict.fromkeys(number for number in chosen if number is not None))


Drawn = dict[str, Any]  # name of a part of the page to what it shows


def of_family(explorer: Explorer, name: str) -> list[tuple[str, int]]:
    """The titles and numbers of the models of a family."""
    return [(opened.title, i) for i, opened in enumerate(explorer.models) if family_of(opened) == name]


def blocks_of(opened: OpenedModel) -> dict[str, str]:
    """The captions of the blocks of a model that have a tree or a quadtree, in their order, to their names."""
    modules = opened.network.named_modules()
    return {caption(name): name for name, module in modules if isinstance(module, TreeScan | QuadtreeScan)}


def block_of(opened: OpenedModel, chosen: str) -> str:
    """The name of the block that a caption means. In a model without this block it is the last one of the same stage.

    Args:
        opened: the model.
        chosen: a caption, of this model or of another.
    """
    blocks = blocks_of(opened)
    if chosen in blocks:
        return blocks[chosen]
    stage = chosen.partition(",")[0]
    alike = [name for text, name in blocks.items() if text.partition(",")[0] == stage]
    return (alike or list(blocks.values()))[-1]


def photo_parts(explorer: Explorer, photo: Photo, pixel: Pixel, view: View) -> Drawn:
    """The photo with its cross, and what is said about it."""
    row, column = pixel
    return {
        "said": f"Row {row}, column {column} of the photo as it is shown.",
        "photo": pictures.marked(photo, pixel),
        "models": "".join(_card(explorer, photo, number) for number in view.models),
    }


def tree_parts(explorer: Explorer, photo: Photo, pixel: Pixel, view: View) -> Drawn:
    """Trees and affinities of one block of a MambaTree, beside those of a scan row by row and those of another one."""
    drawn: Drawn = {"bar": pictures.affinity_bar(view.contrast)}
    for part, number in (("", view.tree), ("other_", view.other_tree)):
        names = [f"{part}tree", f"{part}tree_affinity", *([] if part else ["raster", "raster_affinity"])]
        if number is None:
            drawn |= dict.fromkeys((*names, f"{part}tree_words"))
            continue
        seen = explorer.see(photo, number)
        block = block_of(explorer.models[number], view.tree_block)
        place, found = pictures.place_of(photo, seen, pixel), seen.trees[block]
        along, rows = pictures.affinities(place, block, view.contrast)
        panels = [pictures.tree(place, block), along, *([] if part else [pictures.raster(place, block), rows])]
        drawn |= dict(zip(names, panels, strict=True))
        drawn[f"{part}tree_words"] = _words(
            "Along the tree", seen.title, f"{caption(block)}, {found.height} × {found.width} tokens"
        )
    return drawn


def tree_blocks(explorer: Explorer, photo: Photo, pixel: Pixel, view: View) -> Drawn:
    """Small pictures of all blocks of a MambaTree: (picture, caption)."""
    seen = explorer.see(photo, view.tree)
    place = pictures.place_of(photo, seen, pixel, _SMALL)
    names = {name: f"{caption(name)}: {tree.height} × {tree.width}" for name, tree in seen.trees.items()}
    return {
        "all_trees": [(pictures.tree(place, name), words) for name, words in names.items()],
        "all_affinities": [
            (pictures.affinities(place, name, view.contrast)[0], words) for name, words in names.items()
        ],
    }


def quadtree_parts(explorer: Explorer, photo: Photo, pixel: Pixel, view: View) -> Drawn:
    """The quadtree of one block of a QuadMamba at every depth, its scores and its scan, and those of another model."""
    drawn: Drawn = {}
    for part, number in (("", view.quadtree), ("other_", view.other_quadtree)):
        names = [f"{part}depth{depth}" for depth in range(len(pictures.DEPTHS))] + [f"{part}scores", f"{part}order"]
        if number is None:
            drawn |= dict.fromkeys((*names, f"{part}quadtree_words"))
            continue
        seen = explorer.see(photo, number)
        block = block_of(explorer.models[number], view.quadtree_block)
        place, chosen = pictures.place_of(photo, seen, pixel), seen.quadrants[block]
        panels: list[Image.Image | None] = [
            pictures.quadrants(place, block, depth) if depth <= chosen.levels else None
            for depth in range(len(pictures.DEPTHS))
        ]
        panels += [pictures.scores(place, block), pictures.order(place, block)]
        drawn |= dict(zip(names, panels, strict=True))
        drawn[f"{part}quadtree_words"] = _words(
            "The quadtree", seen.title, f"{caption(block)}, {chosen.height} × {chosen.width} tokens"
        )
    return drawn


def quadtree_blocks(explorer: Explorer, photo: Photo, pixel: Pixel, view: View) -> Drawn:
    """Small pictures of all quadtrees of a QuadMamba, with their scores: (picture, caption)."""
    seen = explorer.see(photo, view.quadtree)
    place = pictures.place_of(photo, seen, pixel, _SMALL)
    return {
        "all_quadtrees": [
            (
                pictures.scores(place, name) or pictures.quadrants(place, name, chosen.levels),
                f"{caption(name)}: {chosen.height} × {chosen.width}",
            )
            for name, chosen in seen.quadrants.items()
        ]
    }


def _words(title: str, *lines: str) -> str:
    return f"<h4>{escape(title)}</h4>" + "".join(f'<p title="{escape(line)}">{escape(line)}</p>' for line in lines)


def _card(explorer: Explorer, photo: Photo, number: int) -> str:
    """What a model was trained on, and its likeliest classes if they say anything about the photo. As HTML."""
    opened, seen = explorer.models[number], explorer.see(photo, number)
    training, verdict = training_of(opened), verdict_on(opened, photo.shown)
    # Names of classes and files come from anywhere, so that they are escaped.
    parts = [f"<h4>{escape(opened.title)}</h4><p>{escape(training.words)}</p>"]
    if training.classes:
        listed = ", ".join(training.classes[:_LISTED]) + (", …" if len(training.classes) > _LISTED else "")
        parts.append(
            f"<details><summary>Its {len(training.classes)} classes</summary><p>{escape(listed)}</p></details>"
        )
    if verdict.words:
        parts.append(f'<p class="{"applies" if verdict.applies else "refused"}">{escape(verdict.words)}</p>')
    if verdict.applies and seen.classes:
        parts.append(_bars(seen.classes))
    return f'<div class="model" id="model{number}">{"".join(parts)}</div>'


def _bars(classes: Mapping[str, float]) -> str:
    best = sorted(classes.items(), key=lambda item: -item[1])[:_TOP]
    rows = (
        f'<li><i style="width: {100 * share:.1f}%"></i><span>{escape(str(name))}</span><b>{100 * share:.0f} %</b></li>'
        for name, share in best
    )
    return f'<ol class="classes">{"".join(rows)}</ol>'
