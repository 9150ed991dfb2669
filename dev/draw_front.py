"""Draws docs/images/front.webp, the first picture of README.md: a tree grows over a photograph and reaches a pixel.

    python dev/draw_front.py

The photograph comes with scikit-learn, and the weights with the package. Both panels of affinities have one scale. The
edges appear as Kruskal's algorithm takes them: those of the most similar neighbours first. A reader who sees one frame
alone sees the whole tree.
"""

from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from matplotlib.collections import LineCollection
from PIL import Image
from sklearn.datasets import load_sample_image

from ssm_core.layers import apart
from ssm_core.visualization import Sheet, caption_panel, draw_mark, save, show_image, token_places
from ssm_train.apis.open_model import open_model
from ssm_train.data.images import to_area
from tree_ssm.visualization import draw_affinities, draw_tree, record_trees

MODEL = "mambatree/mambatree-nano_photos-224x224"
BLOCK = "stages.1.blocks.0.mixer.scan"  # tokens of 8×8 pixels: small enough for shapes, large enough to see edges
PART = (60, 0, 560, 400)  # of the photograph: left, top, right, bottom
CROSS = (0.5, 0.3)  # of the height and of the width
SIDE, WIDTH, DPI = 448, 10.0, 160  # pixels that the model sees; inches; dots per inch
FRAMES, STEP, REST, TIMES = 16, 180, 2600, 4  # of the growth; milliseconds a frame and of the whole tree; repetitions
OUT = Path(__file__).parents[1] / "docs" / "images" / "front.webp"


def main() -> None:
    """Draw the four panels, with more and more edges of the tree."""
    opened = open_model(MODEL)
    features: list[torch.Tensor] = []
    scan = opened.network.get_submodule(BLOCK)
    scan.register_forward_pre_hook(lambda module, inputs: features.append(apart(inputs[0], 1)[0]))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "flower.png"
        Image.fromarray(load_sample_image("flower.jpg")).crop(PART).save(path)
        image = to_area(opened.normalization.read(path, 1, path.name), SIDE)
    with record_trees(opened.network) as trees, torch.no_grad():
        opened.network(opened.normalization.inputs(image))
    block = trees[BLOCK]
    pixel = CROSS[0] * image.shape[0], CROSS[1] * image.shape[1]
    sheet = Sheet(1, 4, image.shape, WIDTH, lines=[1], bar=True)
    photo, tree, near, rows = (sheet.panel(0, column) for column in range(4))
    show_image(photo, image, "a photograph")
    draw_mark(photo, pixel)
    parent = block.tree.parent[0].numpy()
    edges = draw_tree(tree, image, parent, block.height, block.width, "the tree that joins similar neighbours")
    rank = order_of_edges(edges, parent, features[0], token_places(block.height, block.width, image.shape))
    drawn = draw_affinities((near, rows), image, block, pixel)
    caption_panel(near, "what reaches the cross through the tree")
    caption_panel(rows, "and what would, row by row")
    sheet.add_colour_bar(drawn, "affinity")
    thickness, count = np.array(edges.get_linewidths()), len(rank)
    frames = []
    for number in [FRAMES, *range(FRAMES)]:
        edges.set_linewidths(np.where(rank < count * number / FRAMES, thickness, 0))
        drawn_frame = BytesIO()
        save(sheet.figure, drawn_frame, "png", dpi=DPI)
        frames.append(Image.open(drawn_frame).convert("RGB"))
    durations = [REST, *[STEP] * FRAMES]
    frames[0].save(OUT, save_all=True, append_images=frames[1:], duration=durations, loop=TIMES, quality=80, method=6)


def order_of_edges(
    edges: LineCollection,
    parent: np.ndarray,  # [L]
    features: torch.Tensor,  # [1, H, W, D]
    places: np.ndarray,  # [L, 2]
) -> np.ndarray:  # [E]
    """The place of each drawn edge in the order of the distances between the features that it joins."""
    token = {tuple(place): number for number, place in enumerate(places.round(3).tolist())}
    child = np.array([token[tuple(segment[0].round(3).tolist())] for segment in edges.get_segments()])
    rows = features[0].flatten(0, 1)
    distance = 1 - torch.cosine_similarity(rows[child], rows[parent[child]])
    return distance.argsort().argsort().numpy()


if __name__ == "__main__":
    main()
