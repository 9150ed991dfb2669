"""Pictures of what models see, of any family: Matplotlib over plain arrays, no task libraries.

A family draws what its scans chose in its own module ``visualization`` and registers that with :func:`draw_choice`.
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
