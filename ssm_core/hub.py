"""Saves and loads models in the layout of the Hugging Face Hub, which timm reads as well."""

import json
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from huggingface_hub import HfApi, ModelCard, PyTorchModelHubMixin, snapshot_download
from huggingface_hub.errors import HFValidationError
from timm.models import get_pretrained_cfg
from torch import nn

from ssm_core.addresses import LIMIT_SWITCH, limit
from ssm_core.described import build_described
from ssm_core.errors import CheckpointError
from ssm_core.folders import CONFIG, PATTERNS, read_json, read_weights
from ssm_core.weights import load_exactly

Model = TypeVar("Model", bound="HubModel")
MODEL_CARD = """---
{{ card_data }}
---

# {{ name }}

{{ title }} with {{ parameters }} M parameters. It takes images of {{ channels }} channels and returns {{ results }}.
The images must be normalised with ImageNet's mean and standard deviation, unless the model was trained otherwise.

```python
from {{ package }} import {{ title }}

model = {{ title }}.from_pretrained("{{ name }}")
```

timm can load it too: `import {{ package }}`, then `timm.create_model("hf-hub:{{ name }}", pretrained=True)`.
For a folder on the disk, write `local-dir:` and its path instead of `hf-hub:` and the name.
{% if results_table %}
## Results

{{ results_table }}
{% endif %}
Paper: {{ paper_url }}
"""


class HubModel(PyTorchModelHubMixin, license="apache-2.0", library_name="timm", model_card_template=MODEL_CARD):
    """A mixin for networks that adds ``save_pretrained``, ``push_to_hub`` and ``from_pretrained``.

    A saved folder contains ``model.safetensors``, ``README.md`` and ``config.json``. The last one holds the arguments
    of the constructor. :meth:`from_pretrained` reads the folder, and so do ``hf-hub:`` and ``local-dir:`` of timm. The
    mixin of huggingface_hub does the work.
    """

    # timm knows the models as ``<family>_<arch>``.
    family: ClassVar[str]
    # The network that uses this mixin sets these attributes.
    in_chans: int
    num_classes: int
    num_features: int

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments of the constructor, which huggingface_hub's mixin stores."""
        return cast(dict[str, Any], self._hub_mixin_config)

    def hub_config(self) -> dict[str, Any]:
        """Return the content of ``config.json``: the arguments of the constructor, and the entries that timm reads.

        Raises:
            ValueError: timm does not know the model.
        """
        arguments = {key: value for key, value in self._arguments().items() if value is not None}
        arguments.pop("frozen_stages", None)  # how a training went, which is nothing for who loads the model
        # The classifier may have been replaced since the constructor ran.
        arguments["num_classes"] = self.num_classes
        name = f"{self.family}_{arguments['arch']}"
        registered = get_pretrained_cfg(name)
        if registered is None:
            raise ValueError(f"timm knows no model {name}; register it with timm before it is saved")
        known = registered.to_dict(remove_source=True, remove_null=True)
        known.pop("architecture", None)
        known |= {"num_classes": self.num_classes, "input_size": (self.in_chans, *known["input_size"][1:])}
        return {
            **arguments,
            "architecture": name,
            "num_features": self.num_features,
            "model_args": arguments,
            "pretrained_cfg": known,
        }

    def generate_model_card(self, *args: Any, **fields: Any) -> ModelCard:
        """Return the README, which describes the model and says how to load it.

        Args:
            *args: arguments of huggingface_hub's mixin.
            **fields: fields of the template. They replace the values that this method fills in. ``name`` is the name of
                the repository, and ``results_table`` is Markdown with measured results.
        """
        known = {
            "name": f"{self.family}_{self._arguments()['arch']}",
            "title": type(self).__name__,
            "package": type(self).__module__.partition(".")[0],
            "parameters": f"{sum(parameter.numel() for parameter in cast(nn.Module, self).parameters()) / 1e6:.3f}",
            "channels": self.in_chans,
            "results": f"{self.num_classes} logits" if self.num_classes else "features",
        }
        return super().generate_model_card(*args, **{**known, **fields})

    def _save_pretrained(self, save_directory: Path) -> None:
        super()._save_pretrained(save_directory)
        (save_directory / "config.json").write_text(json.dumps(self.hub_config(), indent=2) + "\n")

    @classmethod
    def from_pretrained(  # type: ignore[override]  # further arguments of the mixin would change the model
        cls: type[Model], pretrained_model_name_or_path: str | Path, *, revision: str | None = None
    ) -> Model:
        """Load a model from a folder, or from the Hub.

        The folder may come from anywhere: nothing in it runs, and its config decides nothing that its weights do not
        show.

        Args:
            pretrained_model_name_or_path: the folder, or the name of a repository such as ``"somebody/net"``.
            revision: a branch, a tag or a commit of the repository. A commit names its content for good.

        Raises:
            CheckpointError: there is no such folder, or its config and its weights are of no model of this class.
        """
        folder = local_folder(pretrained_model_name_or_path, PATTERNS, revision)
        config = read_json(folder / CONFIG)
        known = cls._hub_mixin_init_parameters
        arguments = {name: config[name] for name in config if name in known and name != "self"}
        state = read_weights(folder)
        network = build_described(cast(Any, cls), arguments, state, folder)
        load_exactly(network, state, folder, f"its {cls.__name__}")
        return cast(Model, network.eval())


def local_folder(place: str | Path, patterns: Sequence[str], revision: str | None = None) -> Path:
    """Return a folder, or a local copy of a repository of the Hub.

    Args:
        place: the folder, or the name of the repository.
        patterns: which files of the repository are downloaded. Together they may be as large as
            ``SSM_DOWNLOAD_LIMIT`` allows, see :func:`ssm_core.addresses.download`.
        revision: see :meth:`HubModel.from_pretrained`.

    Raises:
        CheckpointError: there is neither, or the files are too large.
    """
    if Path(place).is_dir():
        return Path(place)
    most, found, reason = limit(), None, ""
    try:
        found = HfApi().model_info(str(place), revision=revision, files_metadata=True)
    except HFValidationError:
        raise CheckpointError(f"there is no folder {place}, and it is no name of the Hub's") from None
    except Exception as error:  # without a network a copy from before is used
        reason = " ".join(str(error).split())
    files = [file for file in (found.siblings or []) if _wanted(file.rfilename, patterns)] if found else []
    if sum(file.size or 0 for file in files) > most:
        raise CheckpointError(
            f"{place} is larger than {most / 1e9:g} GB: set {LIMIT_SWITCH} to the GB that may be downloaded"
        )
    try:
        return Path(
            snapshot_download(
                str(place),
                revision=found.sha if found else revision,
                allow_patterns=list(patterns),
                local_files_only=found is None,
            )
        )
    except Exception as error:
        reason = reason or " ".join(str(error).split())
        raise CheckpointError(f"there is no folder {place}, and no copy from the Hub: {reason}") from error


def _wanted(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def save_hub_folder(network: nn.Module, folder: str | Path, **fields: Any) -> None:
    """Save a network in the layout of the Hub. An existing folder is overwritten.

    Args:
        network: a :class:`HubModel`.
        folder: the folder to write.
        **fields: fields of the model card; see :meth:`HubModel.generate_model_card`.

    Raises:
        TypeError: the network is not a :class:`HubModel`.
    """
    if not isinstance(network, HubModel):
        raise TypeError(f"a {type(network).__name__} has no save_pretrained: only models of this project have")
    card = Path(folder) / "README.md"
    card.unlink(missing_ok=True)  # the mixin would not replace an existing card
    network.save_pretrained(folder, model_card_kwargs=fields)
