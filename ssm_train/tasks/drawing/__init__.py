"""Drawing what is known of an image over it: objects with boxes and masks, and maps of labels."""

from ssm_train.tasks.drawing.colours import class_colour, class_colours
from ssm_train.tasks.drawing.label_maps import draw_label_map
from ssm_train.tasks.drawing.objects import DrawnObject, draw_objects
from ssm_train.tasks.drawing.placing import place_labels
from ssm_train.tasks.drawing.side_by_side import SideBySide

__all__ = [
    "DrawnObject",
    "SideBySide",
    "class_colour",
    "class_colours",
    "draw_label_map",
    "draw_objects",
    "place_labels",
]
