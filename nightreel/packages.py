"""Checks that the packages `flows`, `tasks`, `storage` and `manifests` are Nightreel's.

These are common names: Prefect projects call their own folders so. Where another package
of the same name comes first on `sys.path`, an import of ours would fail without a hint.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

NAMES: Final = ("flows", "tasks", "storage", "manifests")


class ShadowedError(ImportError):
    """Another package has the name of one of ours and comes first on `sys.path`."""


def refuse_shadowed() -> None:
    """Raise `ShadowedError` if Python finds another package in place of one of ours."""
    home = Path(__file__).resolve().parents[1]
    for name in NAMES:
        found = _folder(name)
        if found != home / name:
            raise ShadowedError(_message(name, found, home / name))


def _folder(name: str) -> Path | None:
    """The folder that `import NAME` uses; None if Python finds nothing."""
    module = sys.modules.get(name)
    spec = find_spec(name) if module is None else module.__spec__
    if spec is None:
        return None
    if spec.origin is not None:
        origin = Path(spec.origin).resolve()
        return origin.parent if origin.name == "__init__.py" else origin
    # A folder without __init__.py is a namespace package.
    places = spec.submodule_search_locations
    return Path(next(iter(places))).resolve() if places else None


def _message(name: str, found: Path | None, ours: Path) -> str:
    cure = (
        "run Nightreel in a clean environment (`uv tool install nightreel`, or a "
        "new virtual environment), started from a folder without such a package"
    )
    if found is None:
        return f"Nightreel needs its package {name!r}, expected at {ours}: reinstall it"
    return (
        f"Nightreel needs its package {name!r} at {ours}, but Python finds another one "
        f"first: {found}. Rename that one or take it off sys.path; or {cure}"
    )
