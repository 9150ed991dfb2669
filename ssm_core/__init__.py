"""The code that all families of tree-scanning models share: operators, layers and the skeleton of a backbone."""

__version__ = "0.1.0"
