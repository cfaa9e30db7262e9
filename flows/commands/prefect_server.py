"""Which Prefect server a run is shown on: the one that was named, or one of its own."""

from collections.abc import Callable
from urllib.parse import urlsplit

import httpx

from flows.config.settings import run_alone

PATIENCE_S = 2.0
"""For a server that takes longer to say that it is well, nobody waits all night."""


def find_server(warn: Callable[[str], None]) -> None:
    """Have Prefect run without a server if the one that was named is away.

    What is bought, and what is on record of it, is the same either way: only the UI
    does not see it.
    """
    # Prefect takes a second to import.
    from prefect.settings import get_current_settings  # noqa: PLC0415

    url = get_current_settings().api.url
    if url is None or (away := _away(url)) is None:
        return
    parts = urlsplit(url)
    named = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    warn(f"{named}: no Prefect server ({away}): this run goes on without it")
    run_alone()


def _away(url: str) -> str | None:
    """Why there is no server to be reached, if so; one that says no is there."""
    try:
        status = httpx.get(f"{url.rstrip('/')}/health", timeout=PATIENCE_S).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        return str(exc) or type(exc).__name__
    return f"HTTP {status}" if status >= 500 else None
