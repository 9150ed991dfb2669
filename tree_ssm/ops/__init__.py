"""Operators of the tree family: the discrete choice of a spanning tree, and the scan along it."""

from .spanning_tree import Tree, grid_edges, minimum_spanning_tree
from .tree_scan import tree_scan

__all__ = ["Tree", "grid_edges", "minimum_spanning_tree", "tree_scan"]
