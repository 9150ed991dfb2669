"""MambaTree: models whose scan follows a minimum spanning tree. Importing this package registers them with timm."""

from .models import MambaTreeV

__all__ = ["MambaTreeV"]
