"""The environment's proxies and certificates, checked before a library fails on them.

Loopback is never asked for through a proxy: Prefect's temporary server, an emulator and
the listener of webhooks are there, and a proxy would answer for them from another machine.
"""

import os
import ssl
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy")
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def complaints(hosts: Iterable[str] = ()) -> Iterator[str]:
    """Say what no client can use; keep loopback, and `hosts` as NO_PROXY says, direct."""
    named = {
        name: value.strip()
        for name, value in os.environ.items()
        if name.lower() in _PROXIES and value.strip()
    }
    for name, value in named.items():
        if problem := _proxy_problem(value):
            yield f"{name} {problem}: name an HTTP proxy, http://HOST:PORT, or unset it"
    if named:
        _go_direct(hosts)
    if (file := os.environ.get("SSL_CERT_FILE")) and (why := _unread(Path(file))):
        yield f"SSL_CERT_FILE = {file}: {why}: name a PEM file of certificates, or unset it"


def _proxy_problem(value: str) -> str:
    """Why a proxy cannot be used; its password is never repeated."""
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return "is no URL"
    if parts.scheme.lower() not in {"http", "https"}:
        return f"names a proxy of the kind {parts.scheme}://, which is not supported"
    return "" if usable else "names no host"


def _unread(file: Path) -> str:
    try:
        ssl.create_default_context(cafile=file)
    except ssl.SSLError:
        return "holds no certificate"
    except OSError as exc:
        return exc.strerror or "cannot be read"
    return ""


def _go_direct(hosts: Iterable[str]) -> None:
    """Add to NO_PROXY the loopback, and those hosts that lie in one of its networks.

    httpx and aiohttp know no networks there, and httpx fails on brackets and on networks
    of IPv6.
    """
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    entries = [entry.strip() for entry in given.split(",") if entry.strip()]
    kept = [
        entry.strip("[]")
        for entry in entries
        if not ("/" in entry and ":" in entry and "://" not in entry)
    ]
    inside = [host for host in hosts if any(_is_in(host, entry) for entry in entries)]
    every = ",".join(dict.fromkeys([*kept, *_LOOPBACK, *inside]))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = every


def _is_in(host: str, network: str) -> bool:
    try:
        return "/" in network and ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False
