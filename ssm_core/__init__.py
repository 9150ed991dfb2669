"""What all families of tree-scanning state space models share: operators, layers and the skeleton of a backbone."""

__version__ = "0.1.0"
