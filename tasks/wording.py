"""The tables of docs/reference/providers.md that are the code's own: `make docs` writes them there.

How a provider words a refusal or a failure is told by its adapter's own tables; whether
it says where a job is, or calls back, by what the adapter does when it is tried.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import httpx

from manifests.catalogue import loader as catalogue
from manifests.catalogue.routes import Route
from manifests.lifecycle import Discarded, Refused, Rejected, Ticket
from tasks.providers import OWN_GPUS, PROVIDERS, Provider
from tasks.providers.errors import NotFoundError, ProviderError
from tasks.providers.predictions import PredictionApi, example
from tasks.providers.protocol import Billed, Findable, UnreadableError
from tasks.providers.refusals import EFFECTS, Failure, Refusal, RefusalKind, Refusals
from tasks.webhooks import signatures

PAGE: Final = Path(__file__).parents[1] / "docs" / "reference" / "providers.md"

CALLED: Final[Mapping[str, str]] = {
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
"""As they write themselves."""

BELIEVED: Final = frozenset(
    scheme.name
    for scheme in (
        signatures.WaveSpeed,
        signatures.Replicate,
        signatures.Fal,
        signatures.Atlas,
    )
)
"""Whose webhooks are signed in a way that we can verify."""

KEY: Final = "id:" + "secret" * 6
HOOK: Final = "https://hooks.example/provider"
POLLED: Final[Mapping[str, str]] = dict.fromkeys(
    ("status", "result"), "https://queue.fal.run/r/1/status"
)
"""A ticket's links: only fal has some."""

_NONE: Final = ""
_PLACE: Final = re.compile(
    r"(<!-- (\w+): written by `make docs` -->\n).*?(<!-- end of \2 -->)", re.DOTALL
)


def main() -> None:
    """What `make docs` does."""
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")


def written(page: str) -> str:
    """The page, with what the code says by now in the places that are marked for it."""
    tables = {"words": words(), "failures": failures(), "questions": questions()}
    return _PLACE.sub(
        lambda place: f"{place[1]}\n{tables[place[2]]}\n\n{place[3]}", page
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One way in which a provider says no: an adapter may know several."""

    provider: str
    called: str
    refusals: Refusals
    failures: tuple[Failure, ...]


def dialects() -> Iterator[Dialect]:
    """Every adapter's own, and those of what it passes on for others."""
    for name in sorted(PROVIDERS):
        here = vars(sys.modules[PROVIDERS[name].__module__])
        own: Refusals = here["REFUSALS"]
        yield Dialect(
            provider=name,
            called=CALLED[name],
            refusals=own,
            failures=here["FAILURES"],
        )
        for api in _apis(here):
            if api.refusals is not own:
                yield Dialect(
                    provider=name,
                    called=f"{CALLED[name]}, passing on",
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


def words() -> str:
    """How each provider says no, and what Nightreel does about it."""
    known = [*dialects()]
    everywhere = {"server": "5xx", "in doubt": "anything else, or nothing"}
    cells = {
        **{
            word: [_refused(word, each) for each in known]
            for word in get_args(RefusalKind)
        },
        **{word: [cell] * len(known) for word, cell in everywhere.items()},
        "not found": [_not_there(each) for each in known],
    }
    header = ["", *(each.called for each in known), "Nightreel"]
    rows = [[f"**{word}**", *cells[word], does] for word, does in EFFECTS.items()]
    return _table(header, rows)


def failures() -> str:
    """How each provider says that what it accepted came to nothing, and who pays."""
    rows = [
        [each.called, row.kind, row.evidence, _charged(row), _then(row), row.source]
        for each in dialects()
        for row in each.failures
    ]
    header = ["", "why", "told by", "charged", "then", "who says so"]
    return _table(header, rows)


def questions() -> str:
    """Whom one can ask what became of a submit, and who tells without being asked."""
    header = [
        "",
        "was this accepted?",
        "what did it charge?",
        "told where to call back",
    ]
    rows = [[CALLED[name], *_answers(name)] for name in sorted(PROVIDERS)]
    return _table(header, rows)


def _refused(word: str, dialect: Dialect) -> str:
    rows = dialect.refusals.table
    return "; ".join(_codes(row) for row in rows if row.kind == word)


def _codes(row: Refusal) -> str:
    codes = str(row).replace("\\", "")
    return f"{codes} to a submit" if row.submit_only else codes


def _not_there(dialect: Dialect) -> str:
    """The answers to a poll that mean "not there", found by playing them."""
    theirs = {code for row in dialect.refusals.table for code in row.codes}
    mean = (
        code
        for code in sorted({400, 404, *theirs})
        if any(
            _is_lost(route, code, dialect.refusals.mark)
            for route in _routes(dialect.provider)
        )
    )
    return ", ".join(map(str, mean))


def _is_lost(route: Route, code: int, mark: str) -> bool:
    provider = _tried(route)
    poll = provider.poll(Ticket(provider.name, "1", POLLED))
    status = code if 400 <= code < 600 else 200
    said = {mark: "no such task", "code": code}
    answer = httpx.Response(status, json=said, request=next(poll))
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
            return "the row is rejected"
        case Discarded():
            return "it may go again, with the next seed"
        case Refused():
            return "it may go again"


def _answers(name: str) -> Iterator[str]:
    adapter = PROVIDERS[name]
    yield "yes" if issubclass(adapter, Findable) else _NONE
    yield "yes" if issubclass(adapter, Billed) else _NONE
    told = " and ".join(_hooked(name))
    unsigned = f"{told}; not used, nobody documents how to verify it" if told else _NONE
    yield told if name in BELIEVED else unsigned


def _hooked(name: str) -> Iterator[str]:
    """Where a submit says where to call back, found by looking at one."""
    if name in OWN_GPUS:  # who is polled in the same room calls nobody
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


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_celled, line))} |" for line in lines)


def _celled(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    main()
