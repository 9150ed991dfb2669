"""Downloads checkpoints that are given by address, once each, with limits of size and time.

What is downloaded is read like any other file (:mod:`ssm_core.weights`).
"""

import fcntl
import hashlib
import http.client
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import torch

from ssm_core.errors import CheckpointError, ConfigError
from ssm_core.writing import explained, is_of_the_disk, write_error

LIMIT_SWITCH = "SSM_DOWNLOAD_LIMIT"  # the environment variable with the largest download in GB
_LIMIT = 8.0  # GB
_SILENCE = 30  # seconds without a byte
_GRACE = 60  # seconds that any download may take, and more at the slowest speed
_SLOWEST = 50_000  # bytes a second
_CHUNK = 1 << 20
_PATIENCE = 0.5  # seconds between two looks at a download
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[^.]+$")  # as in torch.hub's names
_DATE = re.compile(r"(19|20)\d{6}")


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but not from https to an address that anyone on the way can change."""

    def redirect_request(self, req: urllib.request.Request, fp: Any, *details: Any) -> urllib.request.Request | None:
        fp.close()  # the page that says where to go may be endless, and would be read to its end
        following = super().redirect_request(req, fp, *details)
        if following is not None and urlsplit(req.full_url).scheme == "https" and following.type != "https":
            raise urllib.error.URLError(f"it leads from https to {following.full_url}")
        return following


def is_address(place: str | Path) -> bool:
    """Whether a place is an address rather than a file. A file may have ``://`` in its name, too."""
    return isinstance(place, str) and "://" in place and not Path(place).is_file()


def name_of(place: str | Path) -> str:
    """The name of a file, or that of what is at an address, without its folder."""
    if not is_address(place):
        return Path(place).name
    path = unquote(urlsplit(str(place)).path)
    return re.sub(r"[^\w.-]", "_", path.rpartition("/")[2])[-100:].lstrip(".") or "checkpoint"


def local_file(place: str | Path) -> Path:
    """A file, or the local copy of what is at an address, see :func:`download`."""
    return download(str(place)) if is_address(place) else Path(place)


def download(address: str) -> Path:
    """Return a local copy of what is at an address. A copy that is there is used again.

    The copies lie in ``ssm_checkpoints`` of ``torch.hub.get_dir()``. The environment variable ``SSM_DOWNLOAD_LIMIT``
    has the size of the largest download in GB, by default 8. The file is compared with its SHA-256, or the first digits
    of it, if the address ends in ``#sha256=<digits>`` or its name in ``-<eight or more digits>.<suffix>``, as names of
    torch.hub do.

    Args:
        address: begins with ``http://`` or ``https://``.

    Raises:
        WriteError: the copy cannot be written.
        CheckpointError: the address cannot be read, or the file is too large, too slow or another than its hash says.
        ConfigError: the limit is no number.
    """
    if not address.startswith(("http://", "https://")):
        raise CheckpointError(
            f"cannot read {address}: checkpoints are read from files, http:// and https://; download it and name the "
            "file"
        )
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise CheckpointError(f"{address} is no address: {error}") from error
    name = name_of(address)
    digits = _digits(parts.fragment, name, address)
    folder = Path(torch.hub.get_dir()) / "ssm_checkpoints"
    path = folder / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}-{name}"
    with explained(folder), _locked(path.with_name(f"{path.name}.lock")):
        # A copy that was changed since is not what the hash says, and is fetched again.
        if not path.is_file() or (digits and not _sha256(path).startswith(digits)):
            part = path.with_name(f"{path.name}.part")
            try:
                found = _copy(address.partition("#")[0], part, limit())
                if digits and not found.startswith(digits):
                    raise CheckpointError(f"{address} is another file than its hash says: SHA-256 is {found}")
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
    return path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def limit() -> float:
    """The largest download in bytes.

    Raises:
        ConfigError: the environment variable is no number.
    """
    text = os.environ.get(LIMIT_SWITCH, "") or str(_LIMIT)
    try:
        size = float(text) * 1e9
    except ValueError:
        size = -1.0
    if not size > 0:
        raise ConfigError(f"{LIMIT_SWITCH} is the size of the largest download in GB, not {text!r}")
    return size


def _digits(fragment: str, name: str, address: str) -> str:
    """The first digits of the SHA-256 that an address gives, or nothing."""
    if fragment:
        match = re.fullmatch(r"sha256=([0-9a-f]{8,64})", fragment.lower())
        if match is None:
            raise CheckpointError(f"{address} ends in no hash: write #sha256= and at least 8 digits")
        return match[1]
    match = _HASH_IN_NAME.search(name)
    return match[1] if match and not _DATE.fullmatch(match[1]) else ""


@dataclass
class _Copying:
    """A download, which runs in a thread of its own.

    A server can send any number of bytes before the first one of the file: headers, preliminary answers, redirections.
    Python's library waits for their end, and only somebody else can give up.

    Attributes:
        address: what is downloaded.
        most: the largest size in bytes.
        size: the bytes of the file that have come.
        announced: how many there are, as far as the server has said.
        digest: their SHA-256.
        error: what ended the download too early.
        given_up: set when nobody waits for it any more.
    """

    address: str
    most: float
    size: int = 0
    announced: int | None = None
    digest: str = ""
    error: Exception | None = None
    given_up: bool = False

    def run(self, path: Path) -> None:
        """Write what is at the address to a file."""
        try:
            self._write(path)
        except Exception as error:
            self.error = error

    def _write(self, path: Path) -> None:
        digest = hashlib.sha256()
        with _opener().open(self.address, timeout=_SILENCE) as answer:
            length = answer.headers.get("Content-Length", "")
            self.announced = int(length) if length.isdecimal() else None
            self._check_size(self.announced or 0)
            if self.given_up:
                return
            with open(path, "wb") as file:
                while (chunk := answer.read1(_CHUNK)) and not self.given_up:
                    self.size += len(chunk)
                    self._check_size(self.size)
                    digest.update(chunk)
                    file.write(chunk)
        if self.announced is not None and self.size < self.announced:
            raise ValueError(f"it ended after {self.size} of {self.announced} bytes")
        self.digest = digest.hexdigest()

    def _check_size(self, size: int) -> None:
        if size > self.most:
            raise CheckpointError(
                f"{self.address} is larger than {self.most / 1e9:g} GB: set {LIMIT_SWITCH} to the GB that may be "
                "downloaded"
            )


def _opener() -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _NoDowngrade(),
    ):
        opener.add_handler(handler)
    return opener


def _copy(address: str, path: Path, most: float) -> str:
    """Write what is at an address to a file and return its SHA-256."""
    copying, start = _Copying(address, most), time.monotonic()
    thread = threading.Thread(target=copying.run, args=(path,), daemon=True)  # the program may end while it waits
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_PATIENCE)
            if thread.is_alive() and time.monotonic() - start > _GRACE + copying.size / _SLOWEST:
                raise CheckpointError(
                    f"cannot load the checkpoint {address}: it comes at less than {_SLOWEST // 1000} kB/s"
                )
    finally:
        copying.given_up = True
    error = copying.error
    if error is None or isinstance(error, CheckpointError):
        if error is not None:
            raise error
        return copying.digest
    if isinstance(error, OSError) and is_of_the_disk(error):
        raise write_error(error, path.with_suffix(""), lambda: copying.announced) from error  # without .part
    if not isinstance(error, OSError | ValueError | http.client.HTTPException):
        raise error
    reason = " ".join(str(error).split()) or type(error).__name__
    raise CheckpointError(f"cannot load the checkpoint {address}: {reason}") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process of several download a file; the others wait for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
