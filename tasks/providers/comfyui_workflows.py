"""ComfyUI workflows as "Export (API)" writes them: graphs with slots for a row's values."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from tasks.providers.errors import MisconfiguredError

SLOT: Final = re.compile(r"\{\{(\w+)\}\}")
PREFIX: Final = "filename_prefix"
"""The input by which nodes name the files that they save."""
NEEDED: Final = frozenset({"image", "prompt", "seed", "width", "height", "frames"})
"""Slots without which a workflow makes the same clip for every row."""


@cache
def load(path: str) -> Mapping[str, Any]:
    """Return the graph in a file.

    Raises:
        MisconfiguredError: there is no graph, or it lacks a slot.
    """
    try:
        graph = json.loads(Path(path).read_text("utf-8"))
    except OSError as exc:
        raise MisconfiguredError(f"workflow {path}: {exc.strerror}") from exc
    except ValueError as exc:
        raise MisconfiguredError(f"workflow {path}: not JSON: {exc}") from exc
    match graph:
        case {**nodes} if nodes and all(_is_node(node) for node in nodes.values()):
            slots = {slot for node in nodes.values() for slot in _slots_of(node)}
        case _:
            cure = "use Export (API) in ComfyUI"
            raise MisconfiguredError(f"workflow {path}: not in the API format: {cure}")
    if missing := sorted(NEEDED - slots):
        named = ", ".join(f"{{{{{slot}}}}}" for slot in missing)
        raise MisconfiguredError(f"workflow {path}: no slot {named}")
    return graph


def _is_node(node: Any) -> bool:
    match node:
        case {"class_type": str(), "inputs": {**_inputs}}:
            return True
        case _:
            return False


def _slots_of(node: Mapping[str, Any]) -> Iterator[str]:
    for value in node["inputs"].values():
        if isinstance(value, str) and (found := SLOT.fullmatch(value)):
            yield found[1]


def fill(
    graph: Mapping[str, Any], slots: Mapping[str, object], *, saved_as: str
) -> dict[str, dict[str, Any]]:
    """Return the graph with its slots replaced by values.

    `saved_as` is appended to the prefix of each file that has no slot.

    Raises:
        MisconfiguredError: the graph has a slot that Nightreel does not know.
    """
    named = {slot for node in graph.values() for slot in _slots_of(node)}
    if unknown := named - slots.keys():
        message = (
            f"no slot is called {', '.join(sorted(unknown))}; "
            f"there are {', '.join(slots)}"
        )
        raise MisconfiguredError(f"comfyui: {message}")

    def filled(field: str, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if found := SLOT.fullmatch(value):
            return slots[found[1]]
        return f"{value}-{saved_as}" if field == PREFIX else value

    return {
        name: {
            **node,
            "inputs": {
                field: filled(field, value) for field, value in node["inputs"].items()
            },
        }
        for name, node in graph.items()
    }
