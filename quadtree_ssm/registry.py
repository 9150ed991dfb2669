"""Registers ``type="quadtree_ssm.QuadMamba"`` with mmengine, which imports this module to look up that scope."""

from mmengine.registry import MODELS as ROOT
from mmengine.registry import Registry

from quadtree_ssm.models import QuadMamba

MODELS = Registry("model", parent=ROOT, scope="quadtree_ssm", locations=["quadtree_ssm.registry"])
MODELS.register_module(module=QuadMamba)
