"""Operators of the tree family: distances on the grid, the spanning tree, the scan along it, and its readout."""

from .grid_distance import GuideDistance, grid_distances
from .spanning_tree import Tree, grid_edges, minimum_spanning_tree
from .state_readout import state_readout
from .tree_scan import tree_scan

__all__ = [
    "GuideDistance",
    "Tree",
    "grid_distances",
    "grid_edges",
    "minimum_spanning_tree",
    "state_readout",
    "tree_scan",
]
