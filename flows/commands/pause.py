"""The commands `pause` and `resume`: whether a root buys, for now and for runs to come."""

import asyncio
import socket
from typing import Annotated

import typer

from flows.commands.terminal import opened, tell
from storage import pause_flag

Paused = Annotated[str, typer.Argument(help="The URI of the root.")]


def pause(root: Paused) -> None:
    """Stop buying below a root. Clips already bought are still fetched."""
    asyncio.run(_pause(root))


def resume(root: Paused) -> None:
    """Continue buying below a paused root."""
    asyncio.run(_resume(root))


async def _pause(root: str) -> None:
    objects = await opened(root)
    if await pause_flag.pause(objects, socket.gethostname()):
        tell(
            f"{objects.root}: paused: runs notice within seconds, and buy nothing more"
        )
    else:
        tell(f"{objects.root}: paused already")


async def _resume(root: str) -> None:
    objects = await opened(root)
    if await pause_flag.resume(objects):
        tell(f"{objects.root}: resumed: runs notice within seconds")
    else:
        tell(f"{objects.root}: was not paused")
