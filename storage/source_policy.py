"""The places that a manifest may name: a manifest may be somebody else's.

Without trust a still comes from the internet, from an object store, or from a folder of
this machine that the owner of the run has named. Addresses of this machine and its network
are refused, because they answer every request from here, such as a cloud's metadata at
169.254.169.254. An address is checked when a connection to it is opened, so neither a
redirect nor a second answer of DNS leads elsewhere.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from manifests.uris import folder, is_several, links, scheme
from storage.objects import local_path

_TRUST: Final = (
    "if the manifest is your own, trust it with --trust-manifest or [manifest] trust"
)
_ALLOW: Final = f"list it in [manifest] allow, or {_TRUST}"

PRIVATE: Final = f"is at an address of this machine or its network: {_ALLOW}"
OUTSIDE: Final = f"is a file outside the manifest's folder: list its folder in [manifest] allow, or {_TRUST}"
SYSTEM: Final = f"is a file of the operating system, or a hidden one: {_TRUST}"
OTHER: Final = f"has a scheme that only a trusted manifest may use: {_TRUST}"
CHAIN: Final = f"is a chain of schemes that only a trusted manifest may use: {_TRUST}"

WEB: Final = frozenset({"http", "https"})
_LOCAL: Final = frozenset({"", "file", "local"})
_PUBLIC: Final = frozenset({"s3", "gs", "az", "hf", "memory"})
_WRAPPERS: Final = frozenset({"zip", "tar", "simplecache", "filecache", "blockcache"})
_SYSTEM: Final = tuple(
    Path(folder)
    for folder in "/proc /sys /dev /etc /boot /run/secrets /var/run/secrets".split()
)
_NAT64: Final = IPv6Network("64:ff9b::/96")

Address = IPv4Address | IPv6Address


class RefusedSourceError(OSError):
    """A manifest may not name this place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePolicy:
    """The places outside the internet and the stores that a manifest may name."""

    trusts_all: bool = False
    """Whether it may name everything that this process can read."""
    folders: tuple[Path, ...] = ()
    hosts: frozenset[str] = frozenset()
    """Names of hosts, in lower case, whatever their addresses are."""
    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    def beside(self, manifest: str) -> "SourcePolicy":
        """The same with the folder of a manifest on this machine, or with its host."""
        last = _links(manifest)[-1]
        if scheme(last) in _LOCAL:
            own = _path(folder(last)) if is_several(last) else _path(last).parent
            return replace(self, folders=(*self.folders, own))
        if scheme(last) in WEB and (host := urlsplit(last).hostname):
            return replace(self, hosts=self.hosts | {host})
        return self

    def complaint(self, uri: str) -> str | None:
        """The reason why a manifest may not name this URI, by its text alone."""
        if self.trusts_all:
            return None
        *chain, last = _links(uri)
        if not {link.partition("://")[0].lower() for link in chain} <= _WRAPPERS:
            return CHAIN
        kind = scheme(last)
        if kind in _LOCAL:
            return self._outside(Path(os.path.normpath(_path(last))))
        if kind in WEB:
            return self._foreign(last)
        return None if kind in _PUBLIC else OTHER

    def refuse(self, uri: str) -> None:
        """Refuse a URI by its text, and a file by the place that its links lead to.

        Raises:
            RefusedSourceError: a manifest may not name it.
        """
        problem = self.complaint(uri)
        last = _links(uri)[-1]
        if problem is None and not self.trusts_all and scheme(last) in _LOCAL:
            problem = self._outside(Path(os.path.realpath(_path(last))))
        if problem is not None:
            raise RefusedSourceError(problem)

    def allows_host(self, host: str) -> bool:
        """Whether a host is allowed by its name, whatever its address."""
        return self.trusts_all or host.lower() in self.hosts

    def allows_address(self, address: str) -> bool:
        """Whether a connection to this address may be opened."""
        if self.trusts_all:
            return True
        ip = ip_address(address.partition("%")[0])
        return _is_public(ip) or any(ip in network for network in self.networks)

    def _foreign(self, uri: str) -> str | None:
        try:
            host = urlsplit(uri).hostname or ""
        except ValueError:
            return None  # it is no URI, which is another complaint
        if self.allows_host(host):
            return None
        name = host.rstrip(".")
        if name == "localhost" or name.endswith(".localhost"):
            return PRIVATE
        try:
            return None if self.allows_address(host) else PRIVATE
        except ValueError:
            return None  # a name: its addresses are checked when it is connected to

    def _outside(self, path: Path) -> str | None:
        named = (_below(path, each) for each in self.folders)
        below = [rest for rest in named if rest is not None]
        if not below:
            return SYSTEM if _is_system(path) else OUTSIDE
        hidden = all(any(part.startswith(".") for part in rest.parts) for rest in below)
        return SYSTEM if hidden or _is_system(path) else None


TRUSTING: Final = SourcePolicy(trusts_all=True)
"""For a manifest that the owner of the run wrote."""


def policy(allow: Iterable[str], *folders: Path) -> SourcePolicy:
    """A policy that allows these folders, and what `[manifest] allow` names.

    Raises:
        ValueError: an entry is no folder, host, address or network.
    """
    found, hosts, networks = [*folders], set[str](), list[IPv4Network | IPv6Network]()
    for entry in allow:
        if entry.startswith(("/", "~")):
            found.append(Path(entry).expanduser())
        elif "/" in entry or ":" in entry or entry.replace(".", "").isdigit():
            networks.append(_network(entry))
        elif re.fullmatch(r"[\w.-]+", entry):
            hosts.add(entry.lower())
        else:
            raise ValueError(f"{entry!r} {_NO_PLACE}")
    return SourcePolicy(
        folders=tuple(found), hosts=frozenset(hosts), networks=tuple(networks)
    )


_NO_PLACE: Final = (
    "is no folder (/… or ~/…), no name of a host, and no address or network such as "
    "10.0.0.0/8"
)


def _network(entry: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(entry, strict=False)
    except ValueError:
        raise ValueError(f"{entry!r} {_NO_PLACE}") from None


def _links(uri: str) -> list[str]:
    # fsspec splits at each :: of a URI that it opens; ours do not.
    own = links(uri)
    if len(own) == 1 and scheme(uri) in {*WEB, *_PUBLIC, *_LOCAL}:
        return own
    return uri.split("::")


def _path(uri: str) -> Path:
    if scheme(uri) == "local":
        return Path("/" + uri.partition("://")[2].lstrip("/"))
    return local_path(uri)


def _below(path: Path, folder: Path) -> Path | None:
    for root in {folder, Path(os.path.realpath(folder))}:
        if path.is_relative_to(root):
            return path.relative_to(root)
    return None


def _is_system(path: Path) -> bool:
    return any(path.is_relative_to(folder) for folder in _SYSTEM)


def _is_public(ip: Address) -> bool:
    if isinstance(ip, IPv6Address) and (inner := _embedded(ip)):
        return _is_public(inner)
    return ip.is_global and not ip.is_multicast


def _embedded(ip: IPv6Address) -> IPv4Address | None:
    """The IPv4 address to which a translated or tunnelled one leads."""
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
