"""The docstrings that stand below the fields of a class, which Python does not keep."""

import ast
import inspect
import textwrap
from itertools import pairwise


def field_docs(kind: type) -> dict[str, str]:
    """The docstring of each field of the class, those of its base classes included."""
    docs: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if each.__module__ == kind.__module__:
            docs |= _own(each)
    return docs


def _own(kind: type) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    body = next(each.body for each in tree.body if isinstance(each, ast.ClassDef))
    docs: dict[str, str] = {}
    for field, below in pairwise(body):
        match _target(field), below:
            case str(name), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = inspect.cleandoc(text)
            case _:
                pass
    return docs


def _target(field: ast.stmt) -> str | None:
    match field:
        case ast.AnnAssign(target=ast.Name(id=name)):
            return name
        case ast.Assign(targets=[ast.Name(id=name)]):
            return name
        case _:
            return None
