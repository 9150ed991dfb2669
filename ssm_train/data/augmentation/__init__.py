"""timm's training augmentation in two halves: the numbers are drawn for every image, the pixels are computed by batch.

A loading process crops and flips an image and draws all other numbers with timm's own code (:mod:`.drawing`), so that
they are those that timm would draw from the same seed. :func:`.finish` then computes what they say for a whole batch,
on any device, as Pillow would. Batches of datasets in memory are cropped and flipped whole, on the device
(:mod:`.boxes`).
"""

from ssm_train.data.augmentation.boxes import VIEW_KEY, draw_views
from ssm_train.data.augmentation.drawing import Drawing, Drawn, Unfinished, drawing_of
from ssm_train.data.augmentation.finishing import Backend, finish

__all__ = ["VIEW_KEY", "Backend", "Drawing", "Drawn", "Unfinished", "draw_views", "drawing_of", "finish"]
