"""mmengine's loader of checkpoints, replaced by the reader of this project.

mmengine loads files with ``weights_only=False`` where it fails otherwise, and a crafted file then runs its code. Its
loader is reached from ``load_from``, from ``init_cfg=dict(type="Pretrained")`` and from OpenMMLab's own functions.
"""

from collections.abc import Callable
from typing import Any

from mmengine.runner import checkpoint as mmengine_checkpoint

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
    """Let everything that goes through mmengine's loader read files with :func:`ssm_core.weights.read_file`."""
    register = mmengine_checkpoint.CheckpointLoader.register_scheme
    register(("", "http://", "https://", *_REFUSED), load_from_anywhere, force=True)
    for prefixes, models in _NAMED.items():
        register(prefixes, _named(models), force=True)


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
