"""QuadMamba: vision models whose scan follows a quadtree. Importing this package registers the models with timm."""

from .models import QuadMamba

__all__ = ["QuadMamba"]
