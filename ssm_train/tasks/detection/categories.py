"""Reads the categories of an annotation file, which become the classes of a dataset."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ssm_train.tasks.detection.listed import Listed
from ssm_train.tasks.detection.tally import Tally
from ssm_train.tasks.detection.values import Key, is_nothing, key


@dataclass
class Categories(Listed):
    """The categories that can be used, with ``id`` and ``name``, each name once.

    Attributes:
        classes: the names, in the order of the file, without super-categories that no object has.
    """

    classes: list[str] = field(default_factory=list)


def read_categories(entries: Sequence[Any], annotations: Sequence[Any], tally: Tally) -> Categories:
    """Read ``categories`` of an annotation file.

    Two entries of the same name are one class. It has the id that most annotations have. An id that two names have is
    left out, since nobody knows which is meant.

    Args:
        entries: what the file has.
        annotations: those of the file, which say which categories are used.
        tally: gets what is left out or filled in.
    """
    used = Counter(key(entry.get("category_id")) for entry in annotations if isinstance(entry, dict))
    found: list[tuple[Key, str, dict]] = []
    names_of_id = defaultdict(set)
    for place, entry in enumerate(entries):
        number, name = (key(entry.get("id")), _name(entry)) if isinstance(entry, dict) else (None, None)
        if number is None and name is None:
            tally.leave_out("category", f"at place {place}", "neither id nor name")
            continue
        if name is None:
            name = str(number)
            tally.mend("categories without a name, called by their ids", name)
        number = name if number is None else number
        names_of_id[number].add(name)
        found.append((number, name, entry))
    best: dict[str, tuple[Key, dict]] = {}
    for number, name, entry in found:
        if len(names_of_id[number]) > 1:
            tally.leave_out("category", name, "the id of another category")
        elif name not in best:
            best[name] = number, entry
        elif number != best[name][0]:
            tally.mend("categories of a name that another has, which are one class", name)
            if used[number] > used[best[name][0]]:
                del best[name]  # the class takes the place of the id that is used
                best[name] = number, entry
    result = Categories()
    for name, (number, entry) in best.items():
        category = {**entry, "id": number, "name": name}
        result.kept.append(category)
        result.by_name[name] = category
    for number, name, _ in found:
        if len(names_of_id[number]) == 1:
            result.by_key[number] = result.by_name[name]
    result.classes = _classes(result.kept, found, used, tally)
    tally.check("category", "categories", len(entries))
    return result


def _name(entry: dict) -> str | None:
    name = entry.get("name")
    if isinstance(name, bool) or not isinstance(name, int | float | str) or is_nothing(name):
        return None
    return str(name).strip()


def _classes(
    categories: Sequence[dict], found: Sequence[tuple[Key, str, dict]], used: Counter, tally: Tally
) -> list[str]:
    """The names without that of a category 0 that is the super-category of others and has no objects, as Roboflow's."""
    above = {entry["supercategory"] for _, _, entry in found if isinstance(entry.get("supercategory"), str)}
    classes = []
    for category in categories:
        own = category["name"]
        first = category["id"] == 0 and not used[0] and is_nothing(category.get("supercategory"))
        if first and own in above:
            tally.mend("super-categories without objects, which are no classes", own)
        else:
            classes.append(own)
    return classes
