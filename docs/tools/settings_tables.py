"""The tables of docs/reference/configuration.md, from the schema of nightreel.toml."""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from pydantic import TypeAdapter

from docs.tools.field_docs import field_docs
from docs.tools.markdown import Parts, code, table
from flows.config import (
    EngineSettings,
    LaneSettings,
    ListenSettings,
    ManifestSettings,
    ReportSettings,
)
from manifests.catalogue import Model, Route, Sampling

HEADER: Final = ("key", "type", "default", "meaning")
NOT_WRITTEN: Final[Mapping[type, Collection[str]]] = {
    Model: {"name"},
    Route: {"name", "content", "tier", "sides_of"},
}
"""Fields that a table of nightreel.toml does not have: the table's name, or the model's."""

TYPES: Final[Mapping[str, str]] = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true` or `false`",
    "object": "table",
    "array": "list",
}


def settings_table(kind: type) -> str:
    """The keys of one table of nightreel.toml: type, default, meaning."""
    schema = TypeAdapter(kind).json_schema()
    docs = field_docs(kind)
    required = {*schema.get("required", ())}
    return table(
        HEADER,
        [
            (
                code(name),
                _type(fact),
                "required" if name in required else _default(fact, docs[name]),
                docs[name].split(" Default: ")[0],
            )
            for name, fact in schema["properties"].items()
            if name not in NOT_WRITTEN.get(kind, ())
        ],
    )


def _type(fact: Mapping[str, Any]) -> str:
    kinds = [*_kinds(fact)]
    if {"number", "string"} <= {each.get("type") for each in kinds}:
        return "USD"
    return " or ".join(map(_single, kinds))


def _kinds(fact: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "anyOf" not in fact:
        yield fact
    for each in fact.get("anyOf", ()):
        if each["type"] != "null":
            yield each


def _single(fact: Mapping[str, Any]) -> str:
    match fact:
        case {"enum": values}:
            return ", ".join(map(code, values))
        case {"minimum": low, "maximum": high}:
            return f"{TYPES[fact['type']]}, {low} to {high}"
        case {"minimum": low}:
            return f"{TYPES[fact['type']]}, {low} or more"
        case {"exclusiveMinimum": low}:
            return f"{TYPES[fact['type']]} above {low}"
        case {"type": "array", "items": {"enum": values}}:
            return f"list of {', '.join(map(code, values))}"
        case {"type": kind}:
            return TYPES[kind]
        case _:
            return "table"


def _default(fact: Mapping[str, Any], doc: str) -> str:
    """The default, or the sentence of the docstring that explains it."""
    explained = " ".join(doc.split()).partition(" Default: ")[2]
    match fact.get("default"):
        case _ if explained:
            return explained.removesuffix(".")
        case None | "" | {}:
            return "none"
        case {"steps": _}:
            return "see below"
        case str(text) if _type(fact) == "USD":
            return text
        case value:
            return code(json.dumps(value))


PARTS: Final[Parts] = {
    "settings-lanes": lambda: settings_table(LaneSettings),
    "settings-engine": lambda: settings_table(EngineSettings),
    "settings-manifest": lambda: settings_table(ManifestSettings),
    "settings-listen": lambda: settings_table(ListenSettings),
    "settings-report": lambda: settings_table(ReportSettings),
    "settings-models": lambda: settings_table(Model),
    "settings-routes": lambda: settings_table(Route),
    "settings-sampling": lambda: settings_table(Sampling),
}
