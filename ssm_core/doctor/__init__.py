"""Examines an installation: ``python -m ssm_core.doctor``, or ``tree-ssm doctor``."""
