"""Chooses the Prefect server that shows a run: the configured one, or a temporary one."""

from collections.abc import Callable
from urllib.parse import urlsplit

import httpx

from flows.commands.temporary_server import tie_to_this_process
from flows.config import run_alone

PATIENCE_S = 2.0
"""How long to wait for the server's health check."""


def find_server(warn: Callable[[str], None]) -> None:
    """Have Prefect run without a server if the configured one is unreachable.

    Nightreel buys and records the same clips either way; only the UI does not show the run.
    """
    # Prefect takes a second to import.
    from prefect.settings import get_current_settings  # noqa: PLC0415

    url = get_current_settings().api.url
    if url is None:
        tie_to_this_process()
        return
    if (away := _away(url)) is None:
        return
    parts = urlsplit(url)
    named = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    warn(f"{named}: no Prefect server ({away}): this run goes on without it")
    run_alone()
    tie_to_this_process()


def _away(url: str) -> str | None:
    """Why the server cannot be reached, or None; a server that refuses is reachable."""
    try:
        status = httpx.get(f"{url.rstrip('/')}/health", timeout=PATIENCE_S).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        return str(exc) or type(exc).__name__
    return f"HTTP {status}" if status >= 500 else None
