"""The commands of ``tree-ssm``, one a module: arguments in, one call into :mod:`ssm_train.apis`, one line out.

Each module has ``parse_arguments`` and ``main``. :mod:`.program` finds the module of a command by its name. The files
of ``tools/`` call the same functions.
"""
