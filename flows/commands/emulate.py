"""The command `emulate`: the providers as they answer, on this machine, with a bill."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.terminal import tell


def emulate(  # noqa: PLR0913 - each is a knob
    *,
    port: Annotated[int, typer.Option(help="The port on 127.0.0.1.")] = 8400,
    latency: Annotated[
        str, typer.Option(help="The time that a clip takes: 60s, 500ms, 2m.")
    ] = "60s",
    jitter: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="The share by which that time varies, from 0 to less than 1.",
        ),
    ] = 0.0,
    faults: Annotated[
        str,
        typer.Option(
            help="The probability of each fault: lose_answer=0.02,throttle=0.1."
        ),
    ] = "",
    seed: Annotated[int, typer.Option(help="The seed of the faults.")] = 0,
    slots: Annotated[
        int | None,
        typer.Option(
            min=1, help="The slots of every account. Default: each provider's."
        ),
    ] = None,
    submits_per_minute: Annotated[
        int | None,
        typer.Option(
            min=1, help="The rate limit of every account. Default: each provider's."
        ),
    ] = None,
    clip: Annotated[
        Path | None, typer.Option(help="An MP4 to serve for every job.")
    ] = None,
) -> None:
    """Serve emulated providers, with a bill at /bill and counts at /stats."""
    # No other command needs a server.
    from tasks import emulator  # noqa: PLC0415
    from tasks.emulator.app import DIALECTS  # noqa: PLC0415

    dialects = [dialect.name for dialect in DIALECTS]
    try:
        emulator.run(
            port=port,
            latency=emulator.parse_latency(latency),
            jitter=jitter,
            faults=emulator.parse_faults(faults),
            seed=seed,
            slots=slots,
            submits_per_minute=submits_per_minute,
            clip=clip,
            started=lambda url: tell(_served(url, dialects)),
        )
    except (OSError, ValueError) as exc:
        raise typer.BadParameter(str(exc)) from exc


def _served(url: str, dialects: Iterable[str]) -> str:
    lines = [f"base_url = {f'{url}/{name}'!r}" for name in dialects]
    return "\n".join([*lines, f"bill: {url}/bill, counts: {url}/stats"])
