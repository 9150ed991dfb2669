"""Making, arranging and checking datasets, one dataset a module. ``tree-ssm prepare-data`` is the command line to it.

The function ``prepare_…`` of a module takes two folders. The first holds all datasets. The second holds the downloaded
files, and is None if the user named no such folder. The function returns a report for the user to read. It raises
:class:`~ssm_core.errors.DataError` when something is missing or wrong.
"""
