"""What the command-line tools call: one module for each thing that a user does.

``from ssm_train.apis import Predictor`` is how Python gets predictions.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssm_train.apis.predictor import Predictor

__all__ = ["Predictor"]


def __getattr__(name: str) -> Any:
    """Import the predictor when it is asked for: the tools' --help needs no torch."""
    if name == "Predictor":
        from ssm_train.apis.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
