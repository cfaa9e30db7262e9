"""The temporary server that Prefect starts for a run that has none.

Prefect leaves it in the terminal's process group and does not end it with a run that is
killed. Ctrl-C then ends the server before the run, whose calls fail for a minute and more;
after `kill -9` the server stays.
"""

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from prefect.server.api.server import SubprocessASGIServer

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


def tie_to_this_process() -> None:
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
