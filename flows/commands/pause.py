"""The commands `pause` and `resume`: whether a root buys, for now and for runs to come."""

import asyncio
import socket
from typing import Annotated

import typer

from flows.commands.terminal import existing, tell
from storage import pause_flag
from storage.objects.client import Objects

Paused = Annotated[str, typer.Argument(help="the root of a run")]


def pause(root: Paused) -> None:
    """Have nothing more bought below a root; what was bought is brought home."""
    objects = Objects.open(existing(root))
    if asyncio.run(pause_flag.pause(objects, socket.gethostname())):
        tell(
            f"{objects.root}: paused: runs notice within seconds, and buy nothing more"
        )
    else:
        tell(f"{objects.root}: paused already")


def resume(root: Paused) -> None:
    """Have runs that were paused go on where they are."""
    objects = Objects.open(existing(root))
    if asyncio.run(pause_flag.resume(objects)):
        tell(f"{objects.root}: resumed: runs notice within seconds")
    else:
        tell(f"{objects.root}: was not paused")
