"""What is left out of a dataset: counted by kind, the first of each kind named, and not more than half."""

from collections import Counter

from ssm_core.errors import DataError


class Unusable(Exception):  # noqa: N818  # it is no error of the program
    """An item that cannot be used, such as a row of a file or the label of an image.

    Args:
        kind: what is wrong, in words that are the same for all items of the kind. They follow the name of the item.
        detail: what else there is to say about this item.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind} ({detail})" if detail else kind)
        self.kind = kind


class Faults:
    """Counts what is left out of a dataset.

    Args:
        unit: what one of its items is called in messages, in the plural.
        place: the file or folder of the dataset, for messages.
        verb: what becomes of the items.
    """

    def __init__(self, unit: str, place: str, verb: str = "left out") -> None:
        self.unit, self.place, self.verb = unit, place, verb
        self.kinds: Counter[str] = Counter()
        self.first: dict[str, str] = {}  # the first item of every kind, in words

    def add(self, kind: str, words: str) -> None:
        """Count an item that is left out.

        Args:
            kind: what is wrong, in words that are the same for all items of the kind. They follow "each".
            words: name of the item and what is wrong with it.
        """
        self.kinds[kind] += 1
        self.first.setdefault(kind, words)

    def check(self, total: int) -> None:
        """Check that enough is left.

        Args:
            total: number of items, with those that are left out.

        Raises:
            DataError: more than half of the items are left out.
        """
        lost = self.kinds.total()
        if 2 * lost > total:
            raise DataError(
                f"{lost} of {total} {self.unit} cannot be used, which is more than half; "
                f"{next(iter(self.first.values()))}"
            )

    def lines(self, total: int) -> list[str]:
        """A line for every kind, for the log. The argument is that of :meth:`check`."""
        return [
            f"{self.verb} {count} of {total} {self.unit} of {self.place}: each {kind}; the first is {self.first[kind]}"
            for kind, count in self.kinds.items()
        ]
