"""Serving the page: its address, its end, and who gets answers."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ssm_core.errors import ConfigError
from ssm_train.apis.explore.examples import write_examples
from ssm_train.apis.explore.looking import Explorer
from ssm_train.apis.explore.page import build_page
from ssm_train.apis.explore.style import CSS
from ssm_train.apis.serving import OwnHosts, check_address, ending_in_order

if TYPE_CHECKING:
    import gradio

UPLOADS = "GRADIO_TEMP_DIR"  # the environment variable from which Gradio takes the folder of its uploads
_SESSIONS = 16  # the photos of so many open pages are kept


class Address(NamedTuple):
    """Where a page is served.

    Attributes:
        host: the address to listen on; ``127.0.0.1`` serves this machine alone.
        port: the first free one from 7860 on if left out.
    """

    host: str = "127.0.0.1"
    port: int | None = None

    def __str__(self) -> str:
        return self.host if self.port is None else f"{self.host}:{self.port}"


class ServedPage(NamedTuple):
    """A page that is being served.

    Attributes:
        page: the page.
        url: where a browser finds it.
    """

    page: "gradio.Blocks"
    url: str

    def wait(self) -> None:
        """Wait for Ctrl-C or SIGTERM."""
        self.page.block_thread()


@contextmanager
def served(explorer: Explorer, address: Address, max_upload: str = "10mb") -> Iterator[ServedPage]:
    """Serve the page for as long as the context lasts. Uploaded files are deleted with it, also after SIGTERM.

    The page answers to addresses in digits and to this machine's own names only (:class:`.serving.OwnHosts`).

    Args:
        explorer: what the page shows.
        address: where to serve it.
        max_upload: the size of the largest file that may be uploaded, such as ``"500kb"`` or ``"20mb"``.

    Raises:
        ConfigError: the address is taken, or is none of this machine's.
        ModuleNotFoundError: Gradio is not installed.
    """
    # Gradio would try for minutes to listen on an address that is not this machine's.
    check_address(address.host, address.port)
    with (
        ending_in_order(),
        tempfile.TemporaryDirectory(prefix="tree-ssm-explore-") as folder,
        _environment(UPLOADS, folder),
    ):
        examples = Path(folder, "examples")
        examples.mkdir()
        page = build_page(explorer, write_examples(examples), _SESSIONS)
        # Imported here because Gradio brings it.
        from starlette.middleware import Middleware

        try:
            _, url, _ = page.launch(
                server_name=address.host, server_port=address.port, max_file_size=max_upload, share=False, quiet=True,
                ssr_mode=False, run_history=False, footer_links=[], state_session_capacity=_SESSIONS,
                prevent_thread_lock=True, css=CSS, app_kwargs={"middleware": [Middleware(OwnHosts, host=address.host)]},
            )  # fmt: skip
        except OSError as error:
            raise ConfigError(f"cannot listen on {address}: {' '.join(str(error).split())}") from error
        try:
            yield ServedPage(page, url)
        finally:
            page.close(verbose=False)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for as long as the context lasts."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
