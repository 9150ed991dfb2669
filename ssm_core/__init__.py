"""What the two families of tree-scanning state space models share: operators, layers, skeleton, engine."""

__version__ = "0.1.0"
