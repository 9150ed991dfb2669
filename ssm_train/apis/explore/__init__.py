"""A page to look into models with: choose a photo, click a pixel, see what the scans of both families do with it.

:mod:`.weights` opens the models, :mod:`.knowledge` says what they were trained on, :mod:`.examples` has the photos,
:mod:`.looking` shows a photo to a model, :mod:`.pictures` draws what it saw, :mod:`.answers` and :mod:`.page` put it on
a page of Gradio's, and :mod:`.serve` serves the page. Gradio is imported within the functions that need it, so that all
others work without it.
"""

from ssm_train.apis.explore.looking import Explorer, Photo, Seen
from ssm_train.apis.explore.serve import UPLOADS, Address, ServedPage, served
from ssm_train.apis.explore.weights import open_models

__all__ = ["UPLOADS", "Address", "Explorer", "Photo", "Seen", "ServedPage", "open_models", "served"]
