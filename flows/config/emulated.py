"""`settle_s = 0` is for emulators: a real provider may still get a submit for minutes."""

from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from flows.config.schema import LaneSettings


def settled_too_early(lanes: Mapping[str, LaneSettings]) -> str:
    """Why `settle_s = 0` is unsafe with these lanes; empty if each paid one is emulated."""
    for name, lane in lanes.items():
        if lane.paid and not is_private(lane.base_url):
            at = (
                "has no base_url" if lane.base_url is None else f"is at {lane.base_url}"
            )
            return (
                f"[engine] settle_s = 0: [lanes.{name}] {at}, and a job that its provider "
                "gets late would be paid twice; 0 is for an emulator on this machine or "
                "network: leave settle_s out"
            )
    return ""


def is_private(base_url: str | None) -> bool:
    """Whether the host is on this machine or network, where an emulator runs."""
    host = urlsplit(base_url or "").hostname or ""
    try:
        address = ip_address(host)
    except ValueError:
        # A name without a dot is local, such as a container's.
        return bool(host) and "." not in host
    return address.is_loopback or address.is_private
