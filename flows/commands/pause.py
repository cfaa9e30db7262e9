"""The commands `pause` and `resume`: whether a root buys, for now and for runs to come."""

import asyncio
import socket
from typing import Annotated

import typer

from flows.commands.terminal import existing, tell
from storage import pause_flag
from storage.objects import Objects

Paused = Annotated[str, typer.Argument(help="The URI of the root.")]


def pause(root: Paused) -> None:
    """Stop buying below a root. Clips already bought are still fetched."""
    objects = Objects.open(existing(root))
    if asyncio.run(pause_flag.pause(objects, socket.gethostname())):
        tell(
            f"{objects.root}: paused: runs notice within seconds, and buy nothing more"
        )
    else:
        tell(f"{objects.root}: paused already")


def resume(root: Paused) -> None:
    """Continue buying below a paused root."""
    objects = Objects.open(existing(root))
    if asyncio.run(pause_flag.resume(objects)):
        tell(f"{objects.root}: resumed: runs notice within seconds")
    else:
        tell(f"{objects.root}: was not paused")
