"""Errors that more than one layer has to recognise."""


class NonFiniteError(ValueError):
    """A NaN or infinity where the computation cannot go on, such as in the edge weights of a spanning tree."""
