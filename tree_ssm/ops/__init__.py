"""Operators of the tree family: the discrete choice of a spanning tree, and the scans along it."""

from .selective_tree_scan import selective_tree_scan
from .spanning_tree import Tree, grid_edges, minimum_spanning_tree
from .tree_scan import tree_scan

__all__ = ["Tree", "grid_edges", "minimum_spanning_tree", "selective_tree_scan", "tree_scan"]
