"""Settings: nightreel.toml, the environment, and the lanes that they define.

`schema` defines the tables of the file with their types and defaults; its docstrings become
docs/reference/configuration.md. `settings` finds, reads and validates the file. It and
`network` are the only readers of the environment. `lanes` joins each lane to its route in
the catalogue and to its key. `arguments` checks the values that a person gives to a command
or a call.

API keys are never settings: the file says where a key is kept (`env:NAME` or
`block:NAME`), and `settings.resolve_key` fetches it at the last moment. No message repeats
a value that could be a key.
"""

from flows.config.arguments import SettingsError, budget, policy, seconds
from flows.config.schema import (
    EngineSettings,
    LaneSettings,
    ListenSettings,
    ManifestSettings,
    ReportSettings,
    amount,
)
from flows.config.settings import (
    Settings,
    conceal_environment,
    ready_network,
    run_alone,
)

__all__ = [
    "EngineSettings",
    "LaneSettings",
    "ListenSettings",
    "ManifestSettings",
    "ReportSettings",
    "Settings",
    "SettingsError",
    "amount",
    "budget",
    "conceal_environment",
    "policy",
    "ready_network",
    "run_alone",
    "seconds",
]
