"""Tests of what a served page needs: its own names, an address that is checked at once, and an orderly end."""

import asyncio
import os
import signal
import socket
import time

import pytest

from ssm_core.errors import ConfigError
from ssm_train.apis.serving import OwnHosts, check_address, ending_in_order


def status_for(host):
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})

    async def send(message):
        sent.append(message)

    headers = [] if host is None else [(b"host", host.encode())]
    asyncio.run(OwnHosts(app, "127.0.0.1")({"type": "http", "headers": headers}, None, send))
    return sent[0]["status"]


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "192.168.3.4:80", "[::1]:7860"])
def test_own_names_are_answered(host):
    assert status_for(host) == 200
    assert status_for(socket.gethostname()) == 200


@pytest.mark.parametrize("host", ["evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example", "", None])
def test_other_names_are_refused(host):
    assert status_for(host) == 400


def test_an_address_that_cannot_be_had_fails_at_once():
    start = time.monotonic()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"^cannot listen on 127\.0\.0\.1:{port}: "):
            check_address("127.0.0.1", port)
    for host in ("192.0.2.1", "no.such.host.invalid", "a" * 300):
        with pytest.raises(ConfigError, match="cannot listen on"):
            check_address(host, None)
    assert time.monotonic() - start < 30
    check_address("127.0.0.1", None)
    check_address("0.0.0.0", None)


def test_sigterm_leaves_in_order():
    cleaned = []

    def serve():
        with ending_in_order():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            finally:
                cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        serve()
    assert (ended.value.code, cleaned) == (143, [True])
    assert signal.getsignal(signal.SIGTERM) is before
