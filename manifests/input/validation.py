"""Complaints: the rows of a manifest that cannot become jobs, with reasons by column."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

import polars as pl

from manifests.catalogue import Route, shipped
from manifests.input.columns import COLUMNS, WHOLE, absent
from manifests.jobs import SEEDS, AspectRatio, Content, Job, Resolution, Tier
from manifests.uris import EMPTY_NAME, SCHEMES, absolute, unsigned

SHOWN: Final = 200
"""The number of characters of a value that a complaint repeats."""

TOLD: Final = 100_000
"""The number of complaints that repeat a value.

A manifest with more complaints probably has one mistake in all rows.
"""

COMPLAINTS: Final = pl.Schema(
    {
        "row": pl.UInt32,
        "column": pl.Enum(sorted(COLUMNS)),
        "value": pl.String,
        "reason": pl.Categorical(),
    }
)
"""A complaint without a value takes 25 bytes: there may be one for every row."""
_SAID: Final = pl.Schema(dict.fromkeys(COMPLAINTS, pl.String) | {"row": pl.UInt32})


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing that is wrong with one row."""

    row: int
    column: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"row {self.row}: {self.column} {self.value!r} {self.reason}"


def none() -> pl.DataFrame:
    """A table of complaints with nothing in it."""
    return pl.DataFrame(schema=COMPLAINTS)


def about(rows: pl.DataFrame, routes: Sequence[Route]) -> pl.DataFrame:
    """Every complaint about these rows from `columns.meant`, for `told` or `brief`.

    Their column `still` is the digest of the row's image_bytes, "" if they are empty,
    null if there are none.
    """
    rules = [*_rules()]
    wrong = rows.select(
        *(broken.alias(f"{n}") for n, (_, broken, _) in enumerate(rules)), odd=ODD_PLACE
    )
    found = [
        _listed(rows.filter(broken), what, why)
        for (what, _, why), broken in zip(rules, wrong, strict=False)
        if broken.any()
    ]
    if wrong["odd"].null_count() < rows.height:
        odd = rows.hstack([wrong["odd"]]).drop_nulls("odd")
        found.append(_listed(odd, "image", pl.col("odd")))
    found += _unserved(rows, routes)
    if not found:
        return pl.DataFrame(schema=_SAID)
    return pl.concat(found).unique().sort("row", "column", "reason")


Refused = Callable[[str], str | None]
"""The reason why a manifest may not name a URI, or None."""

_OPEN: Final = r"(?i)^(https?://([^/?#@]*@)?([a-z0-9_-]+\.)+[a-z][a-z0-9-]*(:[0-9]+)?/|(s3|gs|az)://)"
"""A name with a dot at the internet, or an object in a store: most rows have one."""
_BELOW: Final = r"^[^/.:][^:]*$"


def places(rows: pl.DataFrame, uri: str, refused: Refused) -> pl.DataFrame:
    """Complaints about the rows whose `image` the manifest at `uri` may not name."""
    image = pl.col("image")
    below = image.str.contains(_BELOW) & ~image.str.contains(r"(^|/)\.")
    open_ = image.str.contains(_OPEN) & ~image.str.contains("::|(?i)localhost")
    some = rows.filter(image.is_not_null(), ~(below | open_))
    reasons = [refused(absolute(raw, uri)) for raw in some["image"]]
    odd = some.with_columns(pl.Series("odd", reasons, pl.String)).drop_nulls("odd")
    return _listed(odd, "image", pl.col("odd"))


def duplicates(ids: pl.DataFrame) -> pl.DataFrame:
    """A complaint for every row of a table with the columns row, id and earliest.

    `earliest` is the first row with that id. The result is for `told` or `brief`.
    """
    return ids.select(
        "row",
        column=pl.lit("id"),
        value=pl.col("id").cast(pl.String),
        reason=pl.format("is the id of row {} too", "earliest"),
    )


def told(found: pl.DataFrame) -> pl.DataFrame:
    """Complaints in the form of a plan: without signatures, values cut to `SHOWN`."""
    shown = [unsigned(value)[:SHOWN] for value in found["value"]]
    return found.with_columns(pl.Series("value", shown, pl.String)).cast(COMPLAINTS)


def brief(found: pl.DataFrame) -> pl.DataFrame:
    """The same without the values of single rows: for complaints after the first TOLD."""
    same = pl.lit("is the id of an earlier row too")
    reason = pl.when(pl.col("column") == "id").then(same).otherwise("reason")
    short = found.with_columns(value=pl.lit(""), reason=reason)
    return short.cast(COMPLAINTS)


def _listed(rows: pl.DataFrame, column: str, reason: str | pl.Expr) -> pl.DataFrame:
    text = pl.lit("")
    if column != "image_bytes":
        told = [pl.col(f"said {column}"), pl.col(column)]
        text = pl.coalesce(*(value.cast(pl.String) for value in told), text)
    return rows.select(
        "row",
        column=pl.lit(column),
        value=text,
        reason=pl.lit(reason) if isinstance(reason, str) else reason,
    )


_CHOICES: Final = {"resolution": Resolution, "aspect_ratio": AspectRatio}


_INVISIBLE: Final = r"^[\s\p{Z}\p{C}\x{034f}\x{115f}\x{1160}\x{2800}\x{3164}\x{ffa0}\x{fe00}-\x{fe0f}]*$"
"""Text of white space, control, format and filler characters only."""
_MISSING: Final = r"(?i)^\s*(nan|none|null|nil|<na>|n/a|#n/a|nat|undefined)\s*$"
"""Words that exports write for a missing value."""


def _rules() -> Iterator[tuple[str, pl.Expr, str]]:
    """The rules: a column, the condition under which it is wrong, and the reason."""
    prompt = pl.col("prompt").fill_null("")
    yield "prompt", prompt.str.contains(_INVISIBLE), "is blank"
    yield "prompt", prompt.str.contains(_MISSING), "stands for a missing value"
    image, still = pl.col("image").is_not_null(), pl.col("still").is_not_null()
    yield "image", ~image & ~still, "is missing: there is nothing to animate"
    yield "image", image & still, "and image_bytes are both there: one still a row"
    yield "image_bytes", pl.col("still") == "", "is empty"
    for name in WHOLE:
        raw = pl.col(f"said {name}")
        # A seed of -1 means a drawn seed; in other columns -1 is an ordinary number.
        lost = pl.col(name).is_null() & ~absent(raw) & (raw != -1)
        yield name, lost, "is not a whole number"
    yield (
        "seed",
        ~pl.col("seed").is_between(0, SEEDS - 1),
        f"is not in 0 to {SEEDS - 1}",
    )
    yield "take", pl.col("take") < 1, "is less than 1"
    paid = (pl.col("max_usd") > 0).fill_null(value=False)
    unpaid = ~absent(pl.col("said max_usd")) & ~paid
    yield "max_usd", unpaid, "is not a finite number above 0"
    for name, kinds in _CHOICES.items():
        known = get_args(kinds)
        yield name, ~pl.col(name).is_in(known), f"is not {' or '.join(known)}"
    known = get_args(Content)
    yield (
        "content",
        ~pl.col("content").is_in(["", *known]),
        f"is not {' or '.join(known)}",
    )


_IMAGE: Final = pl.col("image")
_BRACKETS: Final = r"^[A-Za-z0-9+.-]+://[^/?#]*[\[\]]"
_IPV6: Final = r"^[A-Za-z0-9+.-]+://([^/?#]*@)?\[[0-9A-Fa-f:.]+\](:[0-9]*)?([/?#]|$)"
_ODD_PORT: Final = (
    r"(?i)^https?://([^/?#]*@)?[^/?#@:\[\]]*:[0-9]*[^0-9/?#@\[\]][^/?#@]*([/?#]|$)"
)
_OPENED: Final = f"(?i)^({'|'.join(SCHEMES)})(://|::)"
ODD_PLACE: Final = (
    pl.when(_IMAGE.str.contains(r"[\x00-\x1f\x7f]|^\s|\s$"))
    .then(pl.lit("has white space around it, or control characters in it"))
    .when(_IMAGE.str.contains("(?i)^file://[^/]"))
    .then(pl.lit("is not a file: that takes three slashes, file:///…"))
    .when(_IMAGE.str.contains("(?i)^(https?|s3a?|gs|gcs|az|abfss?|hf)://(/|$)"))
    .then(pl.lit("names no host or bucket"))
    .when(_IMAGE.str.contains("(?i)^(s3|gs|az)://[^/]+.*//"))
    .then(pl.lit(EMPTY_NAME))
    .when(
        _IMAGE.str.contains("^[A-Za-z][A-Za-z0-9+.-]*:") & ~_IMAGE.str.contains(_OPENED)
    )
    .then(pl.lit("has a scheme that nothing here can open"))
    .when(_IMAGE.str.contains(_BRACKETS) & ~_IMAGE.str.contains(_IPV6))
    .then(pl.lit("is not a URI"))
    .when(_IMAGE.str.contains(_ODD_PORT))
    .then(pl.lit("has a port that is not a number"))
)
"""The error of the place in a column `image`, found by its text alone; else null."""


_ASKED: Final = (
    "model",
    "content",
    "resolution",
    "duration_s",
    "aspect_ratio",
    "negative_prompt",
)


def _unserved(rows: pl.DataFrame, routes: Sequence[Route]) -> Iterator[pl.DataFrame]:
    """Complaints about rows that no route in use can make."""
    known = rows.filter(
        pl.col("duration_s").is_not_null(),
        pl.col("resolution").is_in(get_args(Resolution)),
        pl.col("aspect_ratio").is_in(get_args(AspectRatio)),
        pl.col("content").is_in(["", *get_args(Content)]),
    ).with_columns(negative_prompt=pl.col("negative_prompt") != "")
    asked = known.select(_ASKED).unique()
    answers = [_nearest(asks, routes) or (None, None) for asks in asked.iter_rows()]
    if not any(column for column, _ in answers):
        return
    refused = asked.hstack(
        pl.DataFrame(answers, {"column": pl.String, "reason": pl.String}, orient="row")
    ).drop_nulls("column")
    bad = known.join(refused, on=_ASKED).partition_by("column", as_dict=True)
    for (column,), these in bad.items():
        yield _listed(these, str(column), pl.col("reason"))


def _nearest(asks: tuple[Any, ...], routes: Sequence[Route]) -> tuple[str, str] | None:
    """The column and the reason of the routes that come nearest, if none serves the row."""
    model, content, resolution, duration_s, aspect_ratio, negative = asks
    job = Job(
        image="",
        prompt="",
        model=model,
        content=content,
        resolution=resolution,
        duration_s=duration_s,
        aspect_ratio=aspect_ratio,
        negative_prompt="none" if negative else "",
    )
    wrong = [complaint for route in routes if (complaint := route.complaint(job))]
    if len(wrong) < len(routes):
        return None
    if all(column == "model" for column, _ in wrong):
        made = " or ".join(dict.fromkeys(route.model for route in routes))
        message = f"is made by no lane in use; they make {made or 'nothing'}"
        return "model", "; ".join([*_withdrawn(job), *_meant_model(job), message])
    furthest = max((column for column, _ in wrong), key=_ASKED.index)
    return furthest, "; ".join(why for column, why in wrong if column == furthest)


_LIKE: Final = 0.75
"""The similarity from which an unknown model is taken for a misspelt one."""


def _meant_model(job: Job) -> list[str]:
    """A question for the names that are no model or tier, but nearly one."""
    known = [*shipped().models, *get_args(Tier)]
    near = [
        name
        for unknown in job.models
        if unknown not in known
        for name in difflib.get_close_matches(unknown.casefold(), known, 1, _LIKE)
    ]
    return [f"did you mean {' or '.join(near)}?"] if near else []


def _withdrawn(job: Job) -> list[str]:
    """The withdrawal notes of the retired models that the job names."""
    known = shipped().models
    named = [known[name] for name in job.models if name in known]
    return [f"is {model.retired}" for model in named if model.retired]
