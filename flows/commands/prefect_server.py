"""Chooses the Prefect server that shows a run: the configured one, or a temporary one.

Prefect leaves its temporary server in the terminal's process group and does not end it with
a run that is killed. Ctrl-C then ends the server before the run, whose calls fail for a
minute and more; after `kill -9` the server stays. So we start it in its own session.
"""

import base64
import os
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import httpx

from flows.config import ready_network, run_alone

if TYPE_CHECKING:
    from prefect.server.api.server import SubprocessASGIServer

PATIENCE_S = 2.0
"""How long to wait for the server's health check."""

_ENDS_WITH_STDIN: Final = """
import os, runpy, signal, sys, threading, time

def end():
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
    os._exit(0)

threading.Thread(target=end, daemon=True).start()
sys.argv[0] = "uvicorn"
runpy.run_module("uvicorn", run_name="__main__", alter_sys=True)
"""
"""Runs uvicorn until stdin ends, which the kernel does with the process that holds the pipe."""


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
        _tie_to_this_process()
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
    _tie_to_this_process()


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


def _tie_to_this_process() -> None:
    """Have Prefect start its temporary server in its own session, to end with us."""
    from prefect.server.api import server  # noqa: PLC0415 - takes seconds to import

    server.SubprocessASGIServer._run_uvicorn_command = _started  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - Prefect has no option for it


def _started(self: "SubprocessASGIServer") -> "subprocess.Popen[Any]":
    """Start the server with the arguments and variables of Prefect's own method."""
    import prefect  # noqa: PLC0415
    from prefect.settings import get_current_settings  # noqa: PLC0415

    serve = {
        "--app-dir": str(prefect.__module_path__.parent),
        "--host": "127.0.0.1",
        "--port": str(self.port),
        "--log-level": "error",
        "--lifespan": "on",
    }
    words = [word for option in serve.items() for word in option]
    app = ("--factory", "prefect.server.api.server:create_app")
    return subprocess.Popen(  # noqa: S603 - the arguments are ours
        [sys.executable, "-c", _ENDS_WITH_STDIN, *app, *words],
        env={
            **os.environ,
            "PREFECT_UI_ENABLED": "0",
            "PREFECT__SERVER_EPHEMERAL": "1",
            "PREFECT__SERVER_FINAL": "1",
            **get_current_settings().to_environment_variables(exclude_unset=True),
        },
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
