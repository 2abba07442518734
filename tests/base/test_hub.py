"""Whether the hub can be asked, without asking it."""

import socket

import pytest
from huggingface_hub import constants

from rcpu.base import hub


@pytest.mark.parametrize(
    ("offline", "proxies", "found", "reason"),
    [
        (True, {}, True, "HF_HUB_OFFLINE is set"),
        (False, {}, True, ""),
        (False, {}, False, "no network: the name huggingface.co is not found"),
        (False, {"https": "http://proxy:8080"}, False, ""),  # names are the proxy's affair
    ],
)
def test_the_reason_is_told_at_once(monkeypatch, offline, proxies, found, reason):
    def look_up(host: str, port: int) -> list:
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(host, port)]

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "https://huggingface.co")
    monkeypatch.setattr(hub, "getproxies", lambda: proxies)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert hub.unreachable() == reason
