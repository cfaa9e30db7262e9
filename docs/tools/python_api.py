"""The page of the Python package, from its functions and result classes."""

import inspect
import re
import textwrap
from dataclasses import fields
from typing import Any, Final

import nightreel
from docs.tools.field_docs import field_docs
from docs.tools.markdown import Parts, code, table


def functions() -> str:
    """A section for each function: signature, purpose, arguments and errors."""
    names = [name for name in nightreel.__all__ if name.islower() and name != "batch"]
    return "\n\n".join(_function(name) for name in names)


def results() -> str:
    """A section for each class that the functions return: its fields."""
    names = [name for name in nightreel.__all__ if name.endswith("Result")]
    return "\n\n".join(_result(name) for name in names)


def _function(name: str) -> str:
    function = getattr(nightreel, name)
    text = inspect.cleandoc(function.__doc__ or "")
    prose, *blocks = re.split(r"\n\n(Args|Raises):\n", text)
    parts = [f"## {name}", f"```python\n{_signature(function)}\n```", prose]
    for head, block in zip(blocks[::2], blocks[1::2], strict=True):
        header = {"Args": ("argument", "meaning"), "Raises": ("raises", "when")}[head]
        parts.append(table(header, _entries(block)))
    return "\n\n".join(parts)


def _signature(function: Any) -> str:
    """The signature from the source, without the colon and comments."""
    source = re.sub(r"  # .*", "", inspect.getsource(function))
    head, _, _ = source.partition(':\n    """')
    return head


def _entries(block: str) -> list[tuple[str, str]]:
    """The lines `name: text` of a block, each with its continuation lines."""
    entries: list[tuple[str, str]] = []
    for line in textwrap.dedent(block).splitlines():
        if line.startswith(" "):
            name, text = entries.pop()
            entries.append((name, f"{text} {line.strip()}"))
        else:
            name, _, text = line.partition(": ")
            entries.append((", ".join(map(code, name.split(", "))), text))
    return entries


def _result(name: str) -> str:
    kind = getattr(nightreel, name)
    docs = field_docs(kind)
    rows = [
        (code(each.name), code(_typed(each.type)), docs.get(each.name, ""))
        for each in fields(kind)
    ]
    doc = inspect.cleandoc(kind.__doc__ or "")
    return "\n\n".join([f"### {name}", doc, table(("field", "type", "meaning"), rows)])


def _typed(kind: Any) -> str:
    """The type without its modules."""
    text = kind.__name__ if isinstance(kind, type) else str(kind)
    return re.sub(r"\b[a-z_]+\.(?=[A-Za-z])", "", text)


PARTS: Final[Parts] = {"functions": functions, "results": results}
