"""Pictures of what models of any family see. The module needs Matplotlib and no task libraries.

Each family has its own module ``visualization``, which draws what its scans chose. This module registers its drawing
function with :func:`draw_choice`.
"""

from .figures import (
    caption,
    draw_heat,
    draw_mark,
    in_rows,
    panels,
    save,
    scaled_pixel,
    show_image,
    token_at,
    token_places,
)
from .receptive_field import area_shares, draw_receptive_field, effective_receptive_field, map_extractor
from .scans import draw_choice, is_drawable

__all__ = [
    "area_shares",
    "caption",
    "draw_choice",
    "draw_heat",
    "draw_mark",
    "draw_receptive_field",
    "effective_receptive_field",
    "in_rows",
    "is_drawable",
    "map_extractor",
    "panels",
    "save",
    "scaled_pixel",
    "show_image",
    "token_at",
    "token_places",
]
