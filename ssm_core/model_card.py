"""The model card of a folder of the Hub: what its model takes and returns, and how three libraries load it."""

from typing import Any

from ssm_core.image_data import ImageData

# What stands for the folder in the code of a card that was not written for a repository.
THIS_FOLDER = "path/of/this/folder"
_LISTED = 20  # classes that are named
TEMPLATE = """---
{{ card_data }}
---

# {{ name }}

{{ title }} with {{ parameters }} M parameters. It takes images of {{ channels }} and returns {{ results }}.

| images | |
|---|---|
| size | {{ size }} |
| values | {{ values }} |
{%- if classes %}
| classes | {{ classes }} |
{%- endif %}
{% if usual %}
These are the usual values for ImageNet. They stand here if nothing else was said of the model.
{% endif %}{% if is_picture %}
timm and transformers read images by Pillow's `convert("RGB")`, which cuts off 16-bit values above 255: make them
8-bit first.
{% endif %}
## How to load it

The package `tree-ssm-train` has the model. Importing `{{ package }}` tells timm and transformers about it.

```python
from {{ package }} import {{ model_class }}

model = {{ model_class }}.from_pretrained("{{ place }}")
```

With timm, in its own preparation of images:

```python
import timm
import {{ package }}

model = timm.create_model("{{ timm_name }}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
```
{%- if is_picture %}

With transformers:

```python
import {{ package }}
{%- if has_classes %}
from transformers import pipeline

print(pipeline("image-classification", model="{{ place }}")("image.png"))
{%- else %}
from transformers import AutoImageProcessor, AutoModel

prepare, model = AutoImageProcessor.from_pretrained("{{ place }}"), AutoModel.from_pretrained("{{ place }}")
{%- endif %}
```
{%- endif %}
{% if results_table %}
## Results

{{ results_table }}
{% endif %}
Paper: {{ paper_url }}
"""


def image_fields(data: ImageData, channels: int, grey_from_colours: bool) -> dict[str, Any]:
    """Return the fields of the template that describe images and classes.

    Args:
        data: how images are prepared.
        channels: number of channels of the images.
        grey_from_colours: whether the model makes colours grey.
    """
    height, width = data.size
    size = f"{height} × {width} pixels, scaled by {data.interpolation} interpolation"
    if data.crop_ratio != 1:
        size += f"; the centre of an image that is larger by 1 / {data.crop_ratio:g}"
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (data.mean, data.std))
    values = f"mean {mean} and standard deviation {std}, of values between 0 and 1"
    if data.value_range is not None:
        low, high = data.value_range
        values += f", which are {low:g} and {high:g} in a file (timm and transformers do not know this)"
    words = "1 channel" if channels == 1 else f"{channels} channels"
    if grey_from_colours:
        words += " (it makes colours grey)"
    return {"size": size, "values": values, "channels": words, "classes": _listed(data)}


def _listed(data: ImageData) -> str:
    if data.classes is None:
        return ""
    names = [" ".join(name.replace("|", "/").split()) for name in data.classes[:_LISTED]]
    more = f" and {len(data.classes) - _LISTED} more" if len(data.classes) > _LISTED else ""
    return ", ".join(names) + more + ("; an image can have several" if data.multi_label else "")
