"""Registers ``type="tree_ssm.MambaTreeV"`` with mmengine, which imports this module to look up that scope."""

from mmengine.registry import MODELS as ROOT
from mmengine.registry import Registry

from tree_ssm.models import MambaTreeV

MODELS = Registry("model", parent=ROOT, scope="tree_ssm", locations=["tree_ssm.registry"])
MODELS.register_module(module=MambaTreeV)
