"""The tables of docs/reference/providers.md, from the adapters.

Each adapter's own tables say how its provider refuses a submit or fails a job. Whether a
provider can be asked, or calls back, is found by using the adapter.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, get_args

import httpx

from docs.tools.markdown import Parts, table
from manifests.catalogue import Route
from manifests.catalogue import loader as catalogue
from manifests.lifecycle import Discarded, Refused, Rejected, Ticket
from tasks.providers import OWN_GPUS, PROVIDERS, Provider
from tasks.providers.errors import NotFoundError, ProviderError
from tasks.providers.job_failures import Failure
from tasks.providers.predictions import PredictionApi
from tasks.providers.protocol import Billed, Findable, UnreadableError
from tasks.providers.refusals import EFFECTS, Refusal, RefusalKind, Refusals
from tasks.providers.submissions import example
from tasks.webhooks import signatures

DISPLAY_NAMES: Final[Mapping[str, str]] = {
    "302ai": "302.AI",
    "atlas": "Atlas Cloud",
    "comfyui": "ComfyUI",
    "fal": "fal",
    "fastvideo": "FastVideo",
    "kling": "Kling",
    "lightx2v": "LightX2V",
    "nightreel": "Nightreel's worker",
    "replicate": "Replicate",
    "runway": "Runway",
    "sglang": "SGLang",
    "vllm-omni": "vLLM-Omni",
    "wavespeed": "WaveSpeed",
}
"""The providers as they write their own names."""

VERIFIED: Final = frozenset(
    scheme.name
    for scheme in (
        signatures.WaveSpeed,
        signatures.Replicate,
        signatures.Fal,
        signatures.Atlas,
    )
)
"""Providers whose webhooks are signed in a documented way."""

KEY: Final = "id:" + "secret" * 6
HOOK: Final = "https://hooks.example/provider"
POLLED: Final[Mapping[str, str]] = dict.fromkeys(
    ("status", "result"), "https://queue.fal.run/r/1/status"
)
"""A ticket's links: only fal has some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One way in which a provider says no; an adapter may know several."""

    provider: str
    behind: str = ""
    """The path prefix behind which another provider's interface is passed on."""
    refusals: Refusals
    failures: tuple[Failure, ...]


def dialects(name: str) -> Iterator[Dialect]:
    """The adapter's own dialect, then those that it passes on."""
    module = vars(sys.modules[PROVIDERS[name].__module__])
    own: Refusals = module["REFUSALS"]
    yield Dialect(provider=name, refusals=own, failures=module["FAILURES"])
    for api in _apis(module):
        if api.refusals is not own:
            yield Dialect(
                provider=name,
                behind="/ws",
                refusals=api.refusals,
                failures=api.failures,
            )


def _apis(module: Mapping[str, Any]) -> Iterator[type[PredictionApi]]:
    """The adapters that a module defines."""
    for each in module.values():
        if not isinstance(each, type) or each.__module__ != module["__name__"]:
            continue
        if issubclass(each, PredictionApi):
            yield each


def effects() -> str:
    """The kinds of refusals, and what Nightreel does about each."""
    rows = [(f"**{kind}**", effect) for kind, effect in EFFECTS.items()]
    return table(("kind", "Nightreel"), rows)


def answers(name: str) -> str:
    """How one provider refuses submits and fails jobs: two tables for each dialect."""
    parts: list[str] = []
    for each in dialects(name):
        if each.behind:
            parts.append(f"Behind `{each.behind}`:")
        parts += [refusals(each), failures(each)]
    return "\n\n".join(parts)


def refusals(dialect: Dialect) -> str:
    """The answers of a provider that refuse a request."""
    found = {kind: _refused(kind, dialect) for kind in get_args(RefusalKind)}
    found["not found"] = _not_found(dialect)
    rows = [(f"**{kind}**", codes) for kind, codes in found.items() if codes]
    return table(("refusal", "answer"), rows)


def failures(dialect: Dialect) -> str:
    """The answers of a provider that mean that an accepted job failed."""
    rows = [
        (row.kind, row.evidence, _charged(row), _then(row), row.source)
        for row in dialect.failures
    ]
    return table(("failure", "answer", "charged", "the job", "source"), rows)


def questions() -> str:
    """The questions about a submit that each provider answers, and its webhooks."""
    header = ("", "was it accepted?", "what did it cost?", "webhook address")
    rows = [(DISPLAY_NAMES[name], *_answers(name)) for name in sorted(PROVIDERS)]
    return table(header, rows)


def _refused(kind: str, dialect: Dialect) -> str:
    rows = dialect.refusals.table
    return "; ".join(_codes(row) for row in rows if row.kind == kind)


def _codes(row: Refusal) -> str:
    codes = str(row).replace("\\", "")
    return f"{codes} to a submit" if row.submit_only else codes


def _not_found(dialect: Dialect) -> str:
    """The answers to a poll that mean "not found", found by sending them to the adapter."""
    known = {code for row in dialect.refusals.table for code in row.codes}
    mean = (
        code
        for code in sorted({400, 404, *known})
        if any(
            _means_not_found(route, code, dialect.refusals.mark)
            for route in _routes(dialect.provider)
        )
    )
    return ", ".join(map(str, mean))


def _means_not_found(route: Route, code: int, mark: str) -> bool:
    provider = _tried(route)
    poll = provider.poll(Ticket(provider.name, "1", POLLED))
    status = code if 400 <= code < 600 else 200
    body = {mark: "no such task", "code": code}
    answer = httpx.Response(status, json=body, request=next(poll))
    try:
        if verdict := provider.judge(answer):
            raise verdict
        poll.send(answer)
    except NotFoundError:
        return True
    except (ProviderError, UnreadableError):
        return False
    return False


def _charged(failed: Failure) -> str:
    return {True: "yes", False: "no", None: "unknown: counted as charged"}[
        failed.charged
    ]


def _then(failed: Failure) -> str:
    match failed.outcome(""):
        case Rejected():
            return "is rejected"
        case Discarded():
            return "may be submitted again, with the next seed"
        case Refused():
            return "may be submitted again"


def _answers(name: str) -> Iterator[str]:
    adapter = PROVIDERS[name]
    yield "yes" if issubclass(adapter, Findable) else "no"
    yield "yes" if issubclass(adapter, Billed) else "no"
    hook = " and ".join(_hooked(name))
    unsigned = f"{hook}; not used: no page says how to verify it" if hook else "none"
    yield hook if name in VERIFIED else unsigned


def _hooked(name: str) -> Iterator[str]:
    """The fields of a submit that hold the webhook's address."""
    if name in OWN_GPUS:
        return
    route = _routes(name)[0]
    resolution, seconds = next(iter(route.prices_usd))
    job = example(resolution, seconds)
    request = next(_tried(route).submit(job, "https://i.example/1.jpg", 1, "r"))
    for field, value in request.url.params.items():
        if value == HOOK:
            yield f"`{field}` in the query"
    asked: dict[str, Any] = json.loads(request.content)
    for field, value in asked.items():
        if value == HOOK:
            yield f"`{field}` in the body"


def _routes(name: str) -> list[Route]:
    known = catalogue.shipped().routes.values()
    return [route for route in known if route.provider == name and not route.retired]


def _tried(route: Route) -> Provider:
    return PROVIDERS[route.provider](route, KEY, HOOK)


PARTS: Final[Parts] = {
    "effects": effects,
    "questions": questions,
    **{f"answers-{name}": partial(answers, name) for name in PROVIDERS},
}
