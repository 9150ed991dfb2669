"""Operators of the quadtree family."""

from .quadtree_order import quadtree_order, straight_through_input, straight_through_output
from .token_logits import token_logits

__all__ = ["quadtree_order", "straight_through_input", "straight_through_output", "token_logits"]
