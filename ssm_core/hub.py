"""Models in the Hugging Face Hub's layout, for save_pretrained, push_to_hub, from_pretrained and timm."""

import json
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from huggingface_hub import ModelCard, PyTorchModelHubMixin
from timm.models import get_pretrained_cfg
from torch import nn

Model = TypeVar("Model", bound="HubModel")
MODEL_CARD = """---
{{ card_data }}
---

# {{ name }}

{{ title }} with {{ parameters }} M parameters, from images of {{ channels }} channels, normalised with ImageNet's mean
and standard deviation unless it was trained otherwise, to {{ results }}.

```python
from {{ package }} import {{ title }}

model = {{ title }}.from_pretrained("{{ name }}")
```

or, by timm: `import {{ package }}`, then `timm.create_model("hf-hub:{{ name }}", pretrained=True)` (of a folder on the
disk, `local-dir:`).
{% if results_table %}
## Results

{{ results_table }}
{% endif %}
Paper: {{ paper_url }}
"""


class HubModel(PyTorchModelHubMixin, license="apache-2.0", library_name="timm", model_card_template=MODEL_CARD):
    """A network that goes to the Hub and comes back, with the arguments it was built with.

    The folder has ``model.safetensors``, ``README.md`` and a ``config.json`` that :meth:`from_pretrained` as well as
    timm's ``hf-hub:`` and ``local-dir:`` read. huggingface_hub's mixin does the work.
    """

    # Registered with timm as ``<family>_<arch>``.
    family: ClassVar[str]
    # Of the network that this is mixed into.
    in_chans: int
    num_classes: int
    num_features: int

    def _arguments(self) -> dict[str, Any]:
        """What the network was built with; the mixin keeps it."""
        return cast(dict[str, Any], self._hub_mixin_config)

    def hub_config(self) -> dict[str, Any]:
        """What ``config.json`` holds: the model's arguments, and the same as timm names them.

        Raises:
            ValueError: timm does not know the model.
        """
        arguments = {key: value for key, value in self._arguments().items() if value is not None}
        # As it is now: a classifier may have been replaced.
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
        """The README: how to load the model, and what it is.

        Args:
            *args: the mixin's.
            **fields: of the template, over those known here; ``name`` is that of the repository, ``results_table``
                Markdown about what the model was measured to do.
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
    def _from_pretrained(cls: type[Model], *, strict: bool = True, **options: Any) -> Model:
        # The mixin would take weights that do not fit without a word.
        return super()._from_pretrained(strict=strict, **options)


def save_hub_folder(network: nn.Module, folder: str | Path, **fields: Any) -> None:
    """Write the Hub's folder of a network of ours, over one that is there.

    Args:
        network: a :class:`HubModel`.
        folder: where.
        **fields: of the model card, see :meth:`HubModel.generate_model_card`.

    Raises:
        TypeError: the network is none of ours.
    """
    if not isinstance(network, HubModel):
        raise TypeError(f"a {type(network).__name__} has no save_pretrained: only models of this project have")
    card = Path(folder) / "README.md"
    card.unlink(missing_ok=True)  # the mixin keeps one that is there
    network.save_pretrained(folder, model_card_kwargs=fields)
