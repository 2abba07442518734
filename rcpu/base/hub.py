"""Whether the hub can be asked at all, found out at once rather than after half a minute of retries."""

from __future__ import annotations

import socket
from urllib.parse import urlparse
from urllib.request import getproxies

from huggingface_hub import constants


def unreachable() -> str:
    """Why the hub cannot be asked, or an empty string; files in the local cache can be had all the same."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    host = urlparse(constants.ENDPOINT).hostname
    if getproxies():
        return ""
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return f"no network: the name {host} is not found"
    return ""
