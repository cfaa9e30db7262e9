"""The emulator: providers one can afford to break, with a bill.

It speaks the dialects of thirteen APIs over real HTTP: seven providers' and six self-hosted
engines' (listed in `docs/reference/emulator.md`). It keeps their quotas, makes real MP4s from the
stills it is given, fails on demand, and counts what the providers would have charged.
"""

from tasks.emulator.app import Emulator
from tasks.emulator.bill import Charge
from tasks.emulator.dialects.predictions import Stage
from tasks.emulator.faults import Fault, parse_faults
from tasks.emulator.server import parse_latency, run, running, serve

__all__ = [
    "Charge",
    "Emulator",
    "Fault",
    "Stage",
    "parse_faults",
    "parse_latency",
    "run",
    "running",
    "serve",
]
