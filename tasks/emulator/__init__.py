"""The emulator: providers that a test can afford to break, with a bill.

Dialects
    It serves thirteen APIs over real HTTP, each under the path of its name: seven paid
    providers and six self-hosted engines (docs/reference/emulator.md). A dialect parses a
    submit, words each answer and refusal, and has its routes; `EmulatedApi` does the rest.

State
    `State` has the accounts and predictions, by one clock. Nothing runs in the background:
    the acceptance times, latencies and slots decide the stage of a prediction, and a request
    works it out. A test moves the clock instead of sleeping.

Quotas
    An account is a key at a provider. It has slots, a rate limit and a daily cap, as each
    provider documents them, and records its highest use, so that a test can assert that a
    client kept the quotas.

Faults
    A fault spoils one submit or its later steps: a lost answer, a 429, a broken download.
    A script assigns faults by still or prompt; otherwise a seed decides by probability.

Clips and stills
    It fetches or receives the stills, decodes them, and renders a camera move over the still
    as an MP4 with the badge EMULATED. No model is involved.

The bill
    Every accepted submit is a line of the bill with its price and whether it was refunded,
    also if its answer was lost. A test compares the bill with Nightreel's ledger.
"""

from tasks.emulator.app import Emulator
from tasks.emulator.bill import Charge
from tasks.emulator.faults import Fault, parse_faults
from tasks.emulator.predictions import Stage
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
