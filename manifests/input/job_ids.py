"""The ids of a manifest's rows, computed thousands at once and equal to those of `Job`.

Making a `Job` for each of ten million rows takes minutes. An id is a digest of JSON. Here
polars builds that JSON column by column, and Python handles only the text that JSON or a
URI may write in another way.
"""

from hashlib import blake2b
from json.encoder import encode_basestring_ascii
from typing import Final

import polars as pl

from manifests.job_keys import keys
from manifests.uris import absolute, unsigned

DECISIVE: Final = (
    "image",
    "prompt",
    "negative_prompt",
    "model",
    "resolution",
    "duration_s",
    "aspect_ratio",
    "seed",
    "take",
    "content",
)
"""The columns that decide a job; `image` stands for the digest in `still`."""

_PLAIN: Final = r"^[ !#-\[\]-~]*$"
"""Text that JSON writes as it is, in quotation marks."""
_TEXTS: Final = tuple(n for n in DECISIVE if n not in {"duration_s", "seed", "take"})

_WHOLE: Final = r"^[a-z][a-z0-9+.-]*(://|::)"
"""URIs that are absolute, and stay as they are."""
_BESIDE: Final = r"^[^/]"
_MOVING: Final = r"^[A-Za-z][A-Za-z0-9+.-]*(://|::)|(^|/)\.\.?(/|$)|%"
"""URIs whose scheme is not in small letters, and paths with steps . or .. or with a %."""
_SIGNED: Final = r"[?@#]"


def keyed(rows: pl.DataFrame, uri: str) -> pl.DataFrame:
    """The keys of the jobs that these rows of the manifest at `uri` want.

    The rows are good, in full (`columns.meant`), and have the column `still`.
    """
    quoted = _quoted(rows.select(*DECISIVE).with_columns(_images(rows, uri)))
    whole = [pl.col(name).cast(pl.String).fill_null("null") for name in DECISIVE[:-1]]
    content = pl.when(pl.col("content") != '""').then(", " + pl.col("content"))
    json = pl.concat_str(
        pl.lit("["),
        pl.concat_str(*whole, separator=", "),
        content.fill_null(""),
        pl.lit("]"),
    )
    return keys(_digests(quoted.select(json.cast(pl.Binary)).to_series()))


def _digests(texts: pl.Series) -> list[str]:
    # Copying a prepared digest is a third faster than making a new one.
    ready = blake2b(digest_size=16).copy
    found: list[str] = []
    for text in texts.to_list():
        digest = ready()
        digest.update(text)
        found.append(digest.hexdigest())
    return found


def _quoted(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with their texts quoted as in JSON."""
    mark = pl.lit('"')
    odd = rows.select(~pl.col(_TEXTS).str.contains(_PLAIN))
    marked = rows.with_columns(
        pl.concat_str(mark, name, mark).alias(name) for name in _TEXTS
    )
    for name in odd.columns:
        if odd[name].any():
            some = [
                encode_basestring_ascii(text) for text in rows[name].filter(odd[name])
            ]
            marked = marked.with_columns(_put(marked[name], odd[name], some))
    return marked


def _put(texts: pl.Series, places: pl.Series, instead: list[str]) -> pl.Series:
    return texts.scatter(places.arg_true(), pl.Series(instead, dtype=pl.String))


def _images(rows: pl.DataFrame, uri: str) -> pl.Series:
    """The `image` of each job: a digest, or an absolute URI without any signature."""
    # A plain name goes between the two parts that `absolute` puts around any name.
    before, _, after = absolute("\0", uri).partition("\0")
    image, still = pl.col("image"), pl.col("still")
    beside = pl.concat_str(pl.lit(before), image, pl.lit(after))
    named = (
        pl.when(still.is_not_null())
        .then("sha256:" + still)
        .when(image.str.contains(_WHOLE))
        .then(image)
        .when(image.str.contains(_BESIDE) & ~image.str.contains(_MOVING))
        .then(beside)
    )
    told = rows.select(named.alias("image"), image.alias("said"))
    signed = told["image"].str.contains(_SIGNED).fill_null(value=True)
    if not signed.any():
        return told["image"]
    odd = [unsigned(absolute(raw, uri)) for raw in told["said"].filter(signed)]
    return _put(told["image"], signed, odd)
