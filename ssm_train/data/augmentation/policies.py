"""timm's notation for policies of augmentation, such as ``rand-m9-mstd0.5-inc1``.

timm takes no notice of an option without a number, and says of others that they are unknown without naming them.
"""

import re
from collections.abc import Callable

from ssm_core.errors import nearest

# The options of every policy, with the type of their numbers.
_AUTO_AUGMENT: dict[str, Callable[[str], float]] = {"mstd": float}
POLICIES: dict[str, dict[str, Callable[[str], float]]] = {
    "rand": {"m": int, "n": int, "p": float, "mstd": float, "mmax": int, "inc": int},
    "augmix": {"m": int, "w": int, "d": int, "a": float, "b": int, "mstd": float},
    **dict.fromkeys(("original", "originalr", "v0", "v0r", "3a"), _AUTO_AUGMENT),
}
_SETS = ("tweights", "t3a", "t3aw")  # what RandAugment chooses from, if not from all
_EXAMPLE = "rand-m9-mstd0.5-inc1"


class PolicyNotation:
    """What a text has to be that names a policy, for the check of configs (:mod:`ssm_train.runtime.config_values`)."""

    def lacking(self, text: str) -> str:
        """What a text would have to be.

        Args:
            text: the name of a policy with its options.

        Returns:
            Words that follow "it has to be"; an empty text if timm takes it.
        """
        name, *options = text.split("-")
        if name not in POLICIES:
            *first, last = map(repr, POLICIES)
            return (
                f"a policy of timm's ({', '.join(first)} or {last}, then options as in {_EXAMPLE!r})"
                f"{nearest(name, POLICIES)}"
            )
        known = POLICIES[name]
        if all(_is_option(option, known) or (name == "rand" and option in _SETS) for option in options):
            return ""
        sets = [f"-{chosen}" for chosen in _SETS] if name == "rand" else []
        each = ", ".join([*(f"-{letter}{'0.5' if kind is float else '1'}" for letter, kind in known.items()), *sets])
        return f"{name!r} with options such as {each}"


def _is_option(text: str, known: dict[str, Callable[[str], float]]) -> bool:
    """Whether a text is the letters of an option and a number of its type, as timm reads them."""
    letters, number, _ = [*re.split(r"(\d.*)", text, maxsplit=1), "", ""][:3]
    try:
        known[letters](number)
    except (KeyError, ValueError):
        return False
    return True
