"""mmengine's loader of checkpoints, replaced by the reader of this project.

mmengine loads files with ``weights_only=False`` where it fails otherwise, and a crafted file then runs its code. Its
loader is reached from ``load_from``, from ``init_cfg=dict(type="Pretrained")`` and from OpenMMLab's own functions.
"""

import logging
from collections.abc import Callable
from typing import Any

from mmengine.logging import print_log
from mmengine.model.weight_init import PretrainedInit, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import nn

from ssm_core import weights
from ssm_core.errors import CheckpointError

# Beginnings that mmengine knows and that lead to storages of companies, or to lists that change.
_REFUSED = ("pavi://", r"(\S+\:)?s3://", r"(\S+\:)?petrel://", "mmcls://")
# Beginnings for names of a list, and the function that returns the list.
_NAMED: dict[tuple[str, ...], Callable[[], dict[str, str]]] = {
    ("modelzoo://", "torchvision://"): mmengine_checkpoint.get_torchvision_models,
    ("open-mmlab://", "openmmlab://"): mmengine_checkpoint.get_external_models,
}


def read_checkpoints_safely() -> None:
    """Let everything that goes through mmengine's loader read files with :func:`ssm_core.weights.read_file`.

    ``init_cfg=dict(type="Pretrained")`` becomes :class:`AdaptedInit`.
    """
    WEIGHT_INITIALIZERS.register_module(name="Pretrained", module=AdaptedInit, force=True)
    register = mmengine_checkpoint.CheckpointLoader.register_scheme
    register(("", "http://", "https://", *_REFUSED), load_from_anywhere, force=True)
    for prefixes, models in _NAMED.items():
        register(prefixes, _named(models), force=True)


class AdaptedInit(PretrainedInit):
    """mmengine's ``init_cfg=dict(type="Pretrained")``, for images of any number of channels.

    The first convolution is adapted to them, and a line says what of the file was not used. The arguments are
    mmengine's.
    """

    def __call__(self, module: nn.Module) -> None:
        """Load the weights that fit.

        Raises:
            CheckpointError: the file cannot be read, or less than half of the module is in it.
        """
        content = mmengine_checkpoint.CheckpointLoader.load_checkpoint(self.checkpoint, self.map_location)
        state, _ = weights.state_dict_of(content, self.checkpoint)
        prefix = self.prefix or ""
        chosen = weights.select_prefix(state, f"{prefix.removesuffix('.')}." if prefix else "")
        if words := weights.load_fitting(module, chosen, self.checkpoint):
            print_log(f"{self.checkpoint}: {words}", logger="current", level=logging.WARNING)
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=self._get_init_info())


def load_from_anywhere(filename: str, map_location: Any = None) -> Any:
    """Read a file or an address. The signature is that of mmengine's loaders."""
    return weights.read_file(filename, "cpu" if map_location is None else map_location)


def _named(models: Callable[[], dict[str, str]]) -> Callable[[str, Any], Any]:
    def load_from_list(filename: str, map_location: Any = None) -> Any:
        address = models().get(filename.partition("://")[2])
        if address is None or "://" not in address:
            raise CheckpointError(f"cannot read {filename}: there is no such model; give a file or an https:// address")
        return load_from_anywhere(address, map_location)

    return load_from_list
