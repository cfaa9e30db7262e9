"""The terminal: what people type, and where they read the answer.

What a program reads goes to stdout; what a person watches goes to stderr.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console

from flows.config import settings
from flows.config.settings import Settings
from manifests.uris import absolute, scheme
from storage.objects.connect import local_path
from storage.sources import OpeningError

err = Console(stderr=True, highlight=False)

Manifest = Annotated[str, typer.Argument(help="The URI of the manifest.")]
Root = Annotated[
    str,
    typer.Option(
        help="The URI of the root: clips, ledger and tables are kept below it."
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        help="The configuration file. Default: NIGHTREEL_CONFIG, else ./nightreel.toml."
    ),
]
LaneNames = Annotated[
    str | None,
    typer.Option("--lanes", help="Use only these lanes, separated by commas."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]

BAD_INPUT = 2
"""Exit code: a bad manifest, configuration or usage."""


def chosen(config: Path | None, lanes: str | None) -> Settings:
    """The settings in a file, with the lanes that were named."""
    return settings.load(config, lanes=names(lanes))


def names(lanes: str | None) -> list[str] | None:
    """The lanes in `--lanes a,b`."""
    return None if lanes is None else [name.strip() for name in lanes.split(",")]


def place(uri: str) -> str:
    """A URI that means the same whatever folder a worker runs in."""
    named = uri if scheme(uri) else quote(uri)
    return absolute(named, f"{Path.cwd().as_uri()}/")


def existing(root: str) -> str:
    """The URI of a root that is there: to open a local one that is not would make it.

    Raises:
        OpeningError: there is no such folder.
    """
    uri = place(root)
    if scheme(uri) == "file" and not local_path(uri).is_dir():
        raise OpeningError(f"{uri}: no such folder")
    return uri


def tell(said: str, style: str | None = None) -> None:
    """Say it on stderr as it is: nobody's brackets are markup, and no line is broken."""
    err.print(said, style=style, markup=False, soft_wrap=True)


def print_json(what: Any) -> None:
    """One object on stdout, and nothing else."""
    sys.stdout.write(json.dumps(what, ensure_ascii=False) + "\n")
