"""Chooses the Prefect server that shows a run: the configured one, or a temporary one."""

import base64
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx

from flows.commands.temporary_server import tie_to_this_process
from flows.config import ready_network, run_alone

PATIENCE_S = 2.0
"""How long to wait for the server's health check."""


def find_server(warn: Callable[[str], None]) -> None:
    """Have Prefect run without a server if the configured one is unreachable.

    Nightreel buys and records the same clips either way; only the UI does not show the run.
    """
    # Prefect takes a second to import.
    from prefect.settings import get_current_settings  # noqa: PLC0415

    api = get_current_settings().api
    url = api.url
    if url is None:
        ready_network()
        tie_to_this_process()
        return
    parts = urlsplit(url)
    ready_network(filter(None, [parts.hostname]))
    key = None if api.key is None else api.key.get_secret_value()
    login = None if api.auth_string is None else api.auth_string.get_secret_value()
    if (away := _away(url, _authorization(key, login))) is None:
        return
    warn(
        f"PREFECT_API_URL = {_bare(url)}: no Prefect server ({away}): this run goes on "
        "without it"
    )
    run_alone()
    tie_to_this_process()


def _authorization(key: str | None, login: str | None) -> dict[str, str]:
    """The header that Prefect's own client sends: a key, or a name and a password."""
    if key:
        return {"Authorization": f"Bearer {key}"}
    if login:
        encoded = base64.b64encode(login.encode()).decode("ascii")
        return {"Authorization": f"Basic {encoded}"}
    return {}


def _away(url: str, headers: dict[str, str]) -> str | None:
    """Why the server cannot be used, with the cure; None if it can."""
    base = url.rstrip("/")
    try:
        with httpx.Client(timeout=PATIENCE_S, headers=headers) as client:
            answers = [client.get(f"{base}/health")]
            # A server says that it is healthy without a login. Prefect Cloud, whose
            # address names a workspace, has no such page.
            if "/workspaces/" not in base:
                answers.append(client.get(f"{base}/admin/version"))
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        return str(exc) or type(exc).__name__
    health = answers[0]
    for answer in answers:
        if answer.status_code in {401, 403}:
            cure = "set PREFECT_API_KEY or PREFECT_API_AUTH_STRING"
            return f"HTTP {answer.status_code}, it refuses the login: {cure}"
    if health.status_code >= 500:
        return f"HTTP {health.status_code}"
    kind = health.headers.get("content-type", "")
    if health.is_redirect or health.status_code == 404 or "html" in kind:
        return _no_api(base)
    return None


def _no_api(base: str) -> str:
    if not urlsplit(base).path.rstrip("/").endswith("/api") and "/api/" not in base:
        return f"its API is at /api: set PREFECT_API_URL to {_bare(base)}/api"
    return "a web page is there, perhaps to sign in: name the address of the API itself"


def _bare(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
