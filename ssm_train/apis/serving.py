"""What a page that is served to browsers needs besides Gradio: its own names, a free address, and an orderly end."""

import ipaddress
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, NoReturn

from ssm_core.errors import ConfigError

_Application = Callable[[Any, Any, Any], Awaitable[None]]
_TERMINATED = 128 + signal.SIGTERM  # the exit status that shells give to a program that SIGTERM ended


class OwnHosts:
    """Answers only requests for addresses in digits and for this machine's own names.

    A stranger's page could otherwise let its own name lead to this machine, and read the answers as its own (DNS
    rebinding).

    Args:
        app: the application, of ASGI.
        host: the address that the page is served at.
    """

    def __init__(self, app: _Application, host: str) -> None:
        self.app = app
        self.names = {"localhost", host.lower(), socket.gethostname().lower()}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it with the status 400."""
        if scope["type"] not in ("http", "websocket") or self._is_own(_header(scope, b"host")):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 400, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"this page has another name"})

    def _is_own(self, header: str) -> bool:
        name = header.lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        if name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def check_address(host: str, port: int | None) -> None:
    """Check that this machine has an address and that its port is free.

    Args:
        host: the address.
        port: the port; None for any.

    Raises:
        ConfigError: it has not, or it is not.
    """
    place = host if port is None else f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError, OverflowError) as error:
        raise ConfigError(f"cannot listen on {place}: {' '.join(str(error).split())}") from error


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Let SIGTERM leave the context like an exception, so that what it holds is cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets signals
        return

    def leave(_number: int, _frame: Any) -> NoReturn:
        raise SystemExit(_TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _header(scope: MutableMapping[str, Any], name: bytes) -> str:
    return next((value.decode("latin1") for key, value in scope["headers"] if key == name), "")
