"""Operators of the tree family: distances of neighbours, the spanning tree, scans along it, and the state's readout."""

from .gated_state_readout import gated_state_readout
from .grid_distance import GuideDistance, grid_distances
from .selective_tree_scan import selective_tree_scan
from .spanning_tree import Tree, grid_edges, minimum_spanning_tree
from .state_readout import state_readout
from .subtree_scan import subtree_scan
from .token_distance import token_distances, token_edges
from .tree_scan import tree_scan

__all__ = [
    "GuideDistance",
    "Tree",
    "gated_state_readout",
    "grid_distances",
    "grid_edges",
    "minimum_spanning_tree",
    "selective_tree_scan",
    "state_readout",
    "subtree_scan",
    "token_distances",
    "token_edges",
    "tree_scan",
]
