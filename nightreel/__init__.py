"""Nightreel: turn a manifest of stills into clips, and never pay twice for one.

    import nightreel

    result = nightreel.run("tonight.parquet", root="s3://bucket/reel", budget_usd=20)
    print(result.summary.published, result.summary.spent_usd)
    result.clips.filter(pl.col("state") != "published")

| name | what it does |
|---|---|
| `run`, `arun` | buy every clip of a manifest that the root does not have |
| `plan` | forecast cost and time by lane; sends nothing |
| `check` | validate a manifest and its stills; sends nothing |
| `status` | jobs, money and doubts of a root, from its ledger; sends nothing |
| `reconcile` | ask the providers about submits in doubt, fetch clips, adjust the bill |
| `lanes` | the lanes of a configuration, with prices and limits |
| `batch` | the Prefect flow, for a deployment or as a subflow |

Every function takes `config`, the path of a `nightreel.toml` (default: the one that
`NIGHTREEL_CONFIG` names, then `./nightreel.toml`), and `lanes`, the names of the lanes to
use. Keys are never arguments: the configuration says where each key is kept.

Errors, all raised before any money moves: `ManifestError`, `SettingsError`,
`OpeningError` (a manifest, still or root is out of reach) and `HeldError` (another run
holds the root).

Importing this package imports neither Prefect nor polars, and changes nothing in the
process: every name is loaded at its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nightreel.packages import refuse_shadowed

if TYPE_CHECKING:
    from flows.batch import batch
    from flows.config import SettingsError
    from manifests.input import ManifestError
    from nightreel.api import arun, check, lanes, plan, reconcile, run, status
    from nightreel.results import (
        CheckResult,
        PlanResult,
        ReconcileResult,
        RunResult,
        StatusResult,
    )
    from storage.ledger import HeldError
    from storage.sources import OpeningError

__all__ = [
    "CheckResult",
    "HeldError",
    "ManifestError",
    "OpeningError",
    "PlanResult",
    "ReconcileResult",
    "RunResult",
    "SettingsError",
    "StatusResult",
    "arun",
    "batch",
    "check",
    "lanes",
    "plan",
    "reconcile",
    "run",
    "status",
]

_HOME = {
    "HeldError": "storage.ledger",
    "ManifestError": "manifests.input.columns",
    "OpeningError": "storage.sources",
    "SettingsError": "flows.config.settings",
    "batch": "flows.batch",
    **dict.fromkeys(
        ("arun", "check", "lanes", "plan", "reconcile", "run", "status"),
        "nightreel.api",
    ),
    **dict.fromkeys(
        (
            "CheckResult",
            "PlanResult",
            "ReconcileResult",
            "RunResult",
            "StatusResult",
        ),
        "nightreel.results",
    ),
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nightreel' has no attribute {name!r}")
    refuse_shadowed()
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
