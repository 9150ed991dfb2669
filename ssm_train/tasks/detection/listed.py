"""Finds the images and categories of an annotation file, which other entries name in several ways."""

from dataclasses import dataclass, field
from typing import Any

from ssm_train.tasks.detection.values import Key, key


@dataclass
class Listed:
    """The entries of a list that can be used.

    Attributes:
        kept: COCO's dictionaries, with ``id``.
        by_key: the same by their ids, as :func:`.key` has them.
        by_name: the same by their names.
    """

    kept: list[dict] = field(default_factory=list)
    by_key: dict[Key, dict] = field(default_factory=dict)
    by_name: dict[str, dict] = field(default_factory=dict)

    def find(self, reference: Any) -> dict | None:
        """The entry that another one refers to by its id or its name."""
        found = self.by_key.get(key(reference))
        if found is None and isinstance(reference, str):
            found = self.by_name.get(reference) or self.by_name.get(reference.strip())
        return found
