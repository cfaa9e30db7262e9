"""ComfyUI's workflows, as "Export (API)" writes them: graphs with slots for what a row says."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from tasks.providers.errors import MisconfiguredError

SLOT: Final = re.compile(r"\{\{(\w+)\}\}")
NEEDED: Final = frozenset({"image", "prompt", "seed", "width", "height", "frames"})
"""Slots without which a workflow makes the same clip of every row."""


@cache
def load(path: str) -> Mapping[str, Any]:
    """The graph in a file.

    Raises:
        MisconfiguredError: there is none, or it lacks a slot.
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
            said = "not in the API format: use Export (API) in ComfyUI"
            raise MisconfiguredError(f"workflow {path}: {said}")
    if lacking := sorted(NEEDED - slots):
        named = ", ".join(f"{{{{{slot}}}}}" for slot in lacking)
        raise MisconfiguredError(f"workflow {path}: no slot {named}")
    return graph


def _is_node(node: Any) -> bool:
    match node:
        case {"class_type": str(), "inputs": {**_given}}:
            return True
        case _:
            return False


def _slots_of(node: Mapping[str, Any]) -> Iterator[str]:
    for value in node["inputs"].values():
        if isinstance(value, str) and (found := SLOT.fullmatch(value)):
            yield found[1]


def filled(
    graph: Mapping[str, Any], slots: Mapping[str, object]
) -> dict[str, dict[str, Any]]:
    """The graph with what belongs in its slots.

    Raises:
        MisconfiguredError: it names a slot that there is not.
    """
    if (
        unknown := {s for node in graph.values() for s in _slots_of(node)}
        - slots.keys()
    ):
        known = ", ".join(slots)
        said = f"no slot is called {', '.join(sorted(unknown))}; there are {known}"
        raise MisconfiguredError(f"comfyui: {said}")

    def value(given: Any) -> Any:
        found = SLOT.fullmatch(given) if isinstance(given, str) else None
        return slots[found[1]] if found else given

    return {
        name: {
            **node,
            "inputs": {field: value(given) for field, given in node["inputs"].items()},
        }
        for name, node in graph.items()
    }
