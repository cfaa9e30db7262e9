"""The command that takes providers' webhooks and passes them on as hints."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.terminal import Config, tell
from flows.config import ListenSettings
from flows.config import settings as settings_of

_SECRETS = ("wavespeed", "replicate")
_PROVIDERS = (*_SECRETS, "fal", "atlas")


def listen(
    *,
    config: Config = None,
    host: Annotated[
        str, typer.Option(help="The address to receive webhooks on.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port to receive webhooks on.")
    ] = 8500,
    hints_port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="The port for runs on this machine, on 127.0.0.1."
        ),
    ] = 8501,
) -> None:
    """Receive webhooks, so that runs on this machine poll a finished job at once."""
    from tasks.webhooks import server  # noqa: PLC0415 - no other command needs these servers

    webhooks = settings_of.listen(config)
    shared = asyncio.run(_shared(webhooks, config))

    def started(at: server.Addresses) -> None:
        tell(f"hints for runs: {at.hints}")
        for provider in _PROVIDERS:
            tell(_told(provider, at.webhooks, webhooks))

    try:
        server.serve(
            shared, host=host, port=port, hints_port=hints_port, started=started
        )
    except (OSError, ValueError) as exc:
        raise typer.BadParameter(str(exc)) from exc


async def _shared(webhooks: ListenSettings, config: Path | None) -> dict[str, str]:
    shared: dict[str, str] = {}
    for provider, reference in webhooks.secrets.items():
        try:
            shared[provider] = await settings_of.resolve_key(reference)
        except settings_of.SettingsError as exc:
            where = f"{config or settings_of.DEFAULT}: [listen.secrets] {provider}"
            raise settings_of.SettingsError(f"{where}: {exc}") from None
    return shared


def _told(provider: str, at: str, webhooks: ListenSettings) -> str:
    if provider in _SECRETS and provider not in webhooks.secrets:
        return f"{provider}: not listened to: no {provider!r} in [listen.secrets]"
    line = f"{provider}: {at}/webhooks/{provider}"
    hook = webhooks.hook(provider)
    return f"{line}, which is {hook} to the world" if hook else line
