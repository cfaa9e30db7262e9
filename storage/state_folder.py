"""The folder for Nightreel's state on this machine: spill files, and the roots it knows."""

import os
from pathlib import Path


def state_folder() -> Path:
    """`$XDG_STATE_HOME/nightreel`, by default `~/.local/state/nightreel`; not expanded.

    It is asked for at each use, because a test or a caller may set the variable later.
    """
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state") / "nightreel"
