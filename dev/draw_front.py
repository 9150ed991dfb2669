"""Draws docs/images/front.webp, the first picture of README.md: a tree over a photograph, and what reaches a pixel.

    python dev/draw_front.py

The photograph comes with scikit-learn, and the weights with the package. Both panels of affinities have one scale.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from ssm_core.visualization import Sheet, caption_panel, draw_mark, save, show_image
from ssm_train.apis.open_model import open_model
from ssm_train.data.images import to_area
from tree_ssm.visualization import draw_affinities, draw_tree, record_trees

MODEL = "mambatree/mambatree-nano_photos-224x224"
BLOCK = "stages.1.blocks.0.mixer.scan"  # tokens of 8×8 pixels: small enough for shapes, large enough to see edges
PART = (60, 0, 560, 400)  # of the photograph: left, top, right, bottom
CROSS = (0.5, 0.3)  # of the height and of the width
SIDE, WIDTH, DPI = 448, 10.0, 160  # pixels that the model sees; inches; dots per inch
OUT = Path(__file__).parents[1] / "docs" / "images" / "front.webp"


def main() -> None:
    """Draw the four panels."""
    opened = open_model(MODEL)
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
    draw_tree(tree, image, parent, block.height, block.width, "the tree that joins similar neighbours")
    drawn = draw_affinities((near, rows), image, block, pixel)
    caption_panel(near, "what reaches the cross through the tree")
    caption_panel(rows, "and what would, row by row")
    sheet.add_colour_bar(drawn, "affinity")
    with OUT.open("wb") as file:
        save(sheet.figure, file, "webp", dpi=DPI)


if __name__ == "__main__":
    main()
