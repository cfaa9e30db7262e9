"""Reads a prediction in the shapes of any provider: its id, its status and its clip."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from tasks.providers.parsing import remote_id

VIDEOS: Final = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif")
"""The ends of the paths of videos."""

_PICTURES: Final = (".jpg", ".jpeg", ".png", ".webp", ".avif")

_LINKED: Final = (
    "outputs output videos video videourl taskresult result results response data "
    "downloadurl fileurl url"
).split()
"""The fields that hold a clip's link at any provider, in lower case and without `_`."""

_RELATIVE: Final = re.compile(r"(//?|\.\.?/)?[\w.%~-]+(/[\w.%~-]+)+/?([?#]\S*)?")
"""A path of two names at least. One name is a link only if it ends like a video."""

_NOT_OURS: Final = frozenset("input inputs image images imageurl prompt urls".split())
"""Fields that may repeat our still's link, or hold links to the API itself."""


@dataclass(frozen=True, slots=True)
class Task:
    """A prediction in the answer to a poll."""

    fields: Mapping[str, Any]
    address: str
    """The answer's own address, to which relative links belong."""
    is_bare: bool = False
    """Whether the answer has a clip and no status."""

    @property
    def link(self) -> str | None:
        return clip_link(self.fields, self.address)


def contents(body: Any) -> Iterator[Mapping[str, Any]]:
    """Return the objects of an answer that may be the prediction."""
    match body:
        case {"data": {**inner}, **outer}:
            yield inner
            yield outer
        case {**fields}:
            yield fields
        case [{**first}]:
            yield first
        case _:
            pass


def any_id(content: Mapping[str, Any]) -> str:
    """Return an id by the names that providers have for it.

    `request_id` is none of them: it is the id of a prediction at fal alone.
    """
    by_name = {folded(name): value for name, value in content.items()}
    names = ("id", "taskid", "predictionid", "jobid")
    return next(filter(None, (remote_id(by_name.get(name)) for name in names)), "")


def any_status(content: Mapping[str, Any]) -> Any:
    by_name = {folded(name): value for name, value in content.items()}
    return by_name.get("status") or by_name.get("taskstatus") or by_name.get("state")


def clip_link(answer: Any, address: str = "") -> str | None:
    """Return the link to the clip in an answer, from the fields that any provider uses.

    The link may be text, in an object or in a list. A relative one belongs to the answer's
    own `address`.
    """
    links = [*_links(answer, address)]
    videos = [link for link in links if names_video(link)]
    others = [link for link in links if not _path(link).endswith(_PICTURES)]
    return next(iter(videos or others or links), None)


def video_link(answer: Any) -> str | None:
    """Return the first whole link to a video file, in whatever field of an answer."""
    match answer:
        case str() if _is_whole(answer) and names_video(answer):
            return answer
        case [*items]:
            found = (video_link(item) for item in items)
        case {**fields}:
            ours = (v for name, v in fields.items() if folded(name) not in _NOT_OURS)
            found = (video_link(value) for value in ours)
        case _:
            return None
    return next((link for link in found if link), None)


def names_video(link: str) -> bool:
    """Return whether a link's path ends like a video."""
    return _path(link).endswith(VIDEOS)


def folded(name: object) -> str:
    """Return a field's name without capitals and underscores."""
    return str(name).replace("_", "").lower()


def _links(value: Any, address: str) -> Iterator[str]:
    match value:
        case str() if link := _absolute(value, address):
            yield link
        case [*items]:
            for item in items:
                yield from _links(item, address)
        case {**fields}:
            by_name = {folded(name): each for name, each in fields.items()}
            for name in _LINKED:
                yield from _links(by_name.get(name), address)
        case _:
            pass


def _absolute(text: str, address: str) -> str | None:
    """Return a link as a whole; None for text that is no link."""
    if _is_whole(text):
        return text
    one_name = "/" not in text and " " not in text and names_video(text)
    if not address or not (one_name or _RELATIVE.fullmatch(text)):
        return None
    return str(httpx.URL(address).join(text))


def _is_whole(link: str) -> bool:
    return link.lower().startswith(("https://", "http://"))


def _path(link: str) -> str:
    return link.partition("?")[0].partition("#")[0].lower()
