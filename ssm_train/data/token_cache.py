"""Tokens that are kept from one start of a training to the next."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger

from ssm_core.errors import DataError
from ssm_core.writing import WriteError
from ssm_train.data.token_store import TokenStore
from ssm_train.runtime.files import write_atomically

LONG = 60  # seconds of making tokens after which the log says that they can be kept
_FORMAT = 1  # of what is made of a row; another number makes all tokens anew
_BLOCK = 2**20


class TokenCache:
    """Where the tokens of a file are kept: under a name that its content, the tokenizer and the settings make.

    Args:
        folder: the folder; None keeps nothing.
        tokenizer: a fast tokenizer of transformers. Others cannot be compared, and their tokens are not kept.
        files: the files with the texts. All their bytes are read.
        settings: what else the tokens depend on, as JSON.
    """

    def __init__(self, folder: str | None, tokenizer: Any, files: list[str], settings: dict[str, Any]) -> None:
        self.path = None
        if folder is not None and tokenizer.is_fast and files:
            key = [_FORMAT, version("transformers"), version("tokenizers"), _state(tokenizer), settings]
            key += [_digest(file) for file in files]
            name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
            self.path = Path(folder) / f"{name[:40]}.tokens"

    def find(self) -> TokenStore | None:
        """The tokens, if they were kept."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            store = TokenStore(self.path)
        except (OSError, ValueError, DataError) as error:
            MMLogger.get_current_instance().warning(f"made the tokens anew, since those kept cannot be read: {error}")
            return None
        MMLogger.get_current_instance().info(f"took the tokens that are kept in {self.path}")
        return store

    def keep(self, store: TokenStore, notes: Any, seconds: float) -> None:
        """Keep tokens. If they cannot be written, the log says so, and the training goes on.

        Args:
            store: the tokens.
            notes: see :meth:`.TokenStore.write`.
            seconds: how long it took to make them.
        """
        logger = MMLogger.get_current_instance()
        if self.path is None:
            if seconds > LONG:
                logger.info(f"making tokens took {seconds:.0f} s: the dataset's token_cache=FOLDER keeps them")
            return
        try:
            write_atomically(self.path, lambda file: store.write(file, notes))
        except WriteError as error:
            logger.warning(f"the tokens are not kept for the next start: {error}")


def _state(tokenizer: Any) -> list[Any]:
    """All that decides which tokens a text gets."""
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return [type(tokenizer).__name__, tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, special]


def _digest(path: str) -> str:
    made = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                made.update(block)
    except FileNotFoundError:
        raise DataError(f"there is no data file {path}") from None
    except OSError as error:
        raise DataError(f"cannot read the data file {path}: {error.strerror or error}") from error
    return made.hexdigest()
