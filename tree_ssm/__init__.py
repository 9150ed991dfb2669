"""MambaTree: models whose scan follows a minimum spanning tree. Importing registers the models with timm."""

from .models import MambaTreeV

__all__ = ["MambaTreeV"]
