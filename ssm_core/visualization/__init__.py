"""Pictures of what models of any family see. The module needs Matplotlib and no task libraries.

Each family has its own module ``visualization``, which draws what its scans chose. This module registers its drawing
function with :func:`draw_choice`.
"""

from .figures import (
    KINDS,
    Kind,
    Sheet,
    caption,
    caption_panel,
    draw_heat,
    draw_mark,
    in_grey,
    in_rows,
    panel_width,
    panels,
    save,
    scaled_pixel,
    show_image,
    show_pale,
    token_at,
    token_pitch,
    token_places,
    wrapped,
    write_inside,
)
from .receptive_field import (
    area_shares,
    draw_receptive_field,
    effective_receptive_field,
    map_extractor,
    receptive_field_figure,
)
from .scans import draw_choice, is_drawable
from .style import COLUMN, PAGE, PRINT_DPI

__all__ = [
    "COLUMN",
    "KINDS",
    "PAGE",
    "PRINT_DPI",
    "Kind",
    "Sheet",
    "area_shares",
    "caption",
    "caption_panel",
    "draw_choice",
    "draw_heat",
    "draw_mark",
    "draw_receptive_field",
    "effective_receptive_field",
    "in_grey",
    "in_rows",
    "is_drawable",
    "map_extractor",
    "panel_width",
    "panels",
    "receptive_field_figure",
    "save",
    "scaled_pixel",
    "show_image",
    "show_pale",
    "token_at",
    "token_pitch",
    "token_places",
    "wrapped",
    "write_inside",
]
