"""The page of the command line, from the signatures of the commands."""

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

from docs.tools.markdown import Parts, code, table
from flows.commands.command import options
from flows.commands.main import app

TYPES: Final = {
    str: "text",
    int: "whole number",
    float: "number",
    Path: "path",
    bool: "",
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument or option of a command."""

    name: str
    kind: Any
    """Its type, without None."""
    info: ArgumentInfo | OptionInfo
    default: Any

    @property
    def required(self) -> bool:
        """Whether the command line must have it."""
        return self.default is inspect.Parameter.empty

    @property
    def flags(self) -> str:
        """How it is typed: `MANIFEST`, `--root` or `--stills`, `--no-stills`."""
        if isinstance(self.info, ArgumentInfo):
            return code(self.name.upper())
        # In Annotated, typer takes the first name for the default until it parses it.
        named = [self.info.default] if isinstance(self.info.default, str) else []
        dashed = self.name.replace("_", "-")
        default = [f"--{dashed}", *[f"--no-{dashed}"] * (self.kind is bool)]
        return ", ".join(map(code, [*named, *(self.info.param_decls or ())] or default))

    @property
    def usage(self) -> str:
        """How it stands in the command's usage: `MANIFEST`, `--root ROOT`."""
        flag = self.flags.strip("`")
        return flag if flag.isupper() else f"{flag} {flag.lstrip('-').upper()}"

    @property
    def values(self) -> str:
        """The values that it takes; a flag takes none."""
        if isinstance(self.info, OptionInfo) and self.info.count:
            return ""
        if get_origin(self.kind) is Literal:
            return ", ".join(map(code, sorted(get_args(self.kind))))
        inner = get_args(self.kind)[0] if get_args(self.kind) else self.kind
        match self.info.min, self.info.max:
            case None, None:
                return TYPES[inner]
            case low, None:
                return f"{TYPES[inner]}, {low} or more"
            case low, high:
                return f"{TYPES[inner]}, {low} to {high}"

    @property
    def shown_default(self) -> str:
        """The default; empty if there is none."""
        if self.required:
            return "required"
        if explained := self._help.partition(" Default: ")[2]:
            return explained.removesuffix(".")
        if self.default is None or not self.default:
            return ""
        return "on" if self.default is True else code(self.default)

    @property
    def meaning(self) -> str:
        """Its help, without the sentence about the default."""
        return self._help.partition(" Default: ")[0]

    @property
    def _help(self) -> str:
        return self.info.help or ""


def commands() -> str:
    """A section for each command: usage, purpose, arguments and options."""
    found = sorted(_commands(app, "nightreel"), key=lambda each: each[0])
    return "\n\n".join(_section(name, callback) for name, callback in found)


def common_options() -> str:
    """The options that every command has."""
    return _table(parameters(options))


def _commands(program: typer.Typer, prefix: str) -> Iterator[tuple[str, Any]]:
    for command in program.registered_commands:
        if command.callback is not None:
            name = command.name or command.callback.__name__.replace("_", "-")
            yield f"{prefix} {name}", command.callback
    for group in program.registered_groups:
        if group.typer_instance is not None:
            yield from _commands(group.typer_instance, f"{prefix} {group.name}")


def parameters(callback: Any) -> list[Parameter]:
    """The arguments of a command, then its options, the required ones first."""
    hints = get_type_hints(callback, include_extras=True)
    found = [
        _parameter(each, hints[each.name])
        for each in inspect.signature(callback).parameters.values()
        if hints[each.name] is not typer.Context
    ]
    return sorted(
        found, key=lambda each: (isinstance(each.info, OptionInfo), not each.required)
    )


def _parameter(parameter: inspect.Parameter, hint: Any) -> Parameter:
    kind, info = get_args(hint)
    (single,) = [each for each in get_args(kind) if each is not NoneType] or [kind]
    if get_origin(kind) in {Literal, list}:
        single = kind
    return Parameter(parameter.name, single, info, parameter.default)


def _section(name: str, callback: Any) -> str:
    common = {each.name for each in parameters(options)}
    found = [each for each in parameters(callback) if each.name not in common]
    usage = " ".join([name, *(each.usage for each in found if each.required)])
    if any(not each.required for each in found):
        usage += " [OPTIONS]"
    parts = [f"## {name}", f"    {usage}", inspect.cleandoc(callback.__doc__)]
    if found:
        parts.append(_table(found))
    return "\n\n".join(parts)


def _table(found: Iterable[Parameter]) -> str:
    rows = [
        (each.flags, each.values, each.shown_default, each.meaning) for each in found
    ]
    return table(("parameter", "value", "default", "meaning"), rows)


PARTS: Final[Parts] = {"commands": commands, "common-options": common_options}
