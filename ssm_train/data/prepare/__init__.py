"""Making, arranging and checking datasets, one a module; ``tools/prepare_data.py`` is the command line to it.

Each module has a function that takes the folder of all datasets and a folder of what was downloaded (None if the user
named none) and returns what it found, for the user to read. It raises :class:`~ssm_core.errors.DataError` when
something is missing or wrong.
"""
