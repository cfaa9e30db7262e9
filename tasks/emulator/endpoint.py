"""The desk of one provider: what all of them do alike, in the words of its dialect.

To add a provider, write a class with `Dialect`'s members in a file beside this one, and
name it in `app.DIALECTS`.
"""

import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable
from urllib.parse import quote

from starlette.datastructures import Headers, UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tasks.emulator.accounts import Account, Terms
from tasks.emulator.clips import MOVES, Clips, Cut
from tasks.emulator.dialects.predictions import Prediction, Stage, Wanted
from tasks.emulator.faults import Fault
from tasks.emulator.prices import Offer
from tasks.emulator.refusals import (
    BadInputError,
    GatewayError,
    NotFoundError,
    RefusedError,
    UnauthorizedError,
    UnknownModelError,
)
from tasks.emulator.responses import (
    BAD_GATEWAY,
    HalfAnswer,
    HangUp,
    read_json,
    web_page,
)
from tasks.emulator.state import World
from tasks.emulator.uploads import Still, Stills, UnreadableStillError, Upload


class Dialect(Protocol):
    """How one provider words what every provider does."""

    @property
    def name(self) -> str:
        """Also its prefix: the provider `atlas` is served under `/atlas`."""
        ...

    @property
    def scheme(self) -> str:
        """The word before the key in the Authorization header."""
        ...

    @property
    def terms(self) -> Terms: ...

    def wanted(
        self, offer: Offer, asked: Mapping[str, Any], headers: Headers
    ) -> Wanted:
        """The clip that a submit asks for. Raises BadInputError."""
        ...

    def accepted(self, base: str, prediction: Prediction) -> Response:
        """The answer to a submit."""
        ...

    def refused(self, error: RefusedError) -> Response:
        """Any other answer."""
        ...

    def routes(self, desk: "Desk") -> Sequence[BaseRoute]: ...


@runtime_checkable
class Tokened(Protocol):
    """A dialect whose customers show a token that they made from their key."""

    def key_of(self, token: str, keys: Collection[str] | None) -> str:
        """The key that a token was made from, one of `keys` unless any is good.

        Raises:
            UnauthorizedError: it is no such token, or has run out.
        """
        ...


@dataclass(frozen=True, slots=True)
class Shared:
    """What all desks have in common."""

    world: World
    stills: Stills
    clips: Clips


Handler = Callable[["Desk", Request], Awaitable[Response]]


class Desk:
    """Where one provider's requests come in."""

    def __init__(
        self,
        dialect: Dialect,
        *,
        terms: Terms,
        offers: Mapping[str, Offer],
        shared: Shared,
    ) -> None:
        self.world = shared.world
        self.requests: Counter[str] = Counter()
        """By kind: submit, poll, list, check, charge, upload, still, download, lost (no page)."""
        self.keys_shown = 0
        """Keys that came with a download or a presigned upload, whose hosts have no
        business to know them."""
        self._dialect = dialect
        self._tokened = dialect if isinstance(dialect, Tokened) else None
        self._terms = terms
        self._offers = offers
        self._stills = shared.stills
        self._clips = shared.clips
        self._upload_tokens: set[str] = set()

    def routes(self) -> list[BaseRoute]:
        clip = self.route("GET", "/clips/{id}/clip.mp4", "download", _download)
        return [clip, *self._dialect.routes(self)]

    def route(
        self,
        method: str,
        path: str,
        kind: str,
        handler: Handler,
    ) -> Route:
        """A page of the provider's, whose refusals are in its own words."""

        async def page(request: Request) -> Response:
            self.requests[kind] += 1
            try:
                return await handler(self, request)
            except GatewayError:
                return web_page(BAD_GATEWAY, 502)
            except RefusedError as error:
                return self._dialect.refused(error)

        return Route(path, page, methods=[method])

    @property
    def offers(self) -> Mapping[str, Offer]:
        """What there is, by the provider's own model ids."""
        return self._offers

    def base(self, request: Request) -> str:
        """The provider's own address, as this client reached it."""
        host = request.headers["host"]
        return f"{request.scope['scheme']}://{host}/{self._dialect.name}"

    def account(self, request: Request) -> Account:
        """Whose request it is. Raises UnauthorizedError."""
        shown = request.headers.get("authorization", "")
        if not shown and self._terms.keyless and self.world.keys is None:
            return self.world.account(self._dialect.name, "nobody", self._terms)
        scheme, _, key = shown.partition(" ")
        if scheme.lower() != self._dialect.scheme.lower():
            raise UnauthorizedError("no key")
        if self._tokened is not None:
            key = self._tokened.key_of(key.strip(), self.world.keys)
        return self.world.account(self._dialect.name, key.strip(), self._terms)

    async def asked(self, request: Request) -> Mapping[str, Any]:
        """The fields of a customer's request. Raises UnauthorizedError, BadInputError."""
        self.account(request)
        asked = await read_json(request)
        if asked is None:
            raise BadInputError("", "json_invalid", "the body is not a JSON object")
        return asked

    async def submit(
        self, request: Request, endpoint: str, asked: Mapping[str, Any]
    ) -> Response:
        """Accept and charge, or raise why not; then lose the answer, if it is to be lost."""
        account = self.account(request)
        offer = self._offers.get(endpoint)
        if offer is None:
            raise UnknownModelError(endpoint)
        wanted = self._dialect.wanted(offer, asked, request.headers)
        image = self._stills.identity(wanted.image)
        prediction = self.world.submit(account, wanted, image)
        answer = self._dialect.accepted(self.base(request), prediction)
        match prediction.fault:
            case Fault.LOSE_ANSWER:
                return HangUp()
            case Fault.LOSE_ANSWER_MID:
                return HalfAnswer(answer.body, media_type=answer.media_type)
            case Fault.ERROR_AFTER:
                return web_page(BAD_GATEWAY, 502)
            case Fault.MALFORMED_ACCEPT:
                return web_page(b"<!doctype html><title>OK</title>", answer.status_code)
            case _:
                return answer

    async def poll(
        self, request: Request, prediction_id: str
    ) -> tuple[Prediction, Stage]:
        """A prediction and its stage. Raises NotFoundError."""
        account = self.account(request)
        prediction, stage = self.world.poll(account, prediction_id)
        if stage is Stage.SUCCEEDED and await self._still(prediction) is None:
            stage = Stage.UNREADABLE
        return prediction, stage

    async def clip(self, request: Request, prediction: Prediction) -> Response:
        """The clip itself, from a provider that has it behind its own key."""
        self.account(request)
        return await _sent(self, prediction.id)

    def position(self, request: Request, prediction: Prediction) -> int:
        """How many are before it in the queue."""
        return self.world.position(self.account(request), prediction)

    def clip_url(self, request: Request, prediction: Prediction) -> str:
        return f"{self.base(request)}/clips/{prediction.id}/clip.mp4"

    async def film(self, prediction: Prediction) -> bytes:
        """The clip's bytes. Raises NotFoundError."""
        still = await self._still(prediction)
        if still is None:
            raise NotFoundError("no such clip")
        wanted = prediction.wanted
        cut = Cut(
            resolution=wanted.resolution,
            aspect_ratio=wanted.aspect_ratio,
            frames=wanted.frames,
            fps=wanted.fps,
            move=prediction.seed % MOVES,
        )
        return await self._clips.film(still, cut)

    async def _still(self, prediction: Prediction) -> Still | None:
        # The still is looked at when somebody asks about the clip, since nothing runs
        # in between; a client cannot tell.
        if prediction.still is None:
            try:
                prediction.still = await self._stills.load(prediction.wanted.image)
            except UnreadableStillError:
                prediction.stage = Stage.UNREADABLE
        return prediction.still

    def expect(self, filename: str, media_type: str) -> Upload:
        """Make room for a still that is about to be handed over."""
        return self._stills.expect(filename, media_type)

    def upload(self, request: Request) -> Upload:
        """What is being handed over at this URL. Raises NotFoundError."""
        upload = self._stills.upload(request.path_params["id"])
        if upload is None:
            raise NotFoundError("no such upload")
        return upload

    async def form(self, request: Request, field: str = "file") -> Upload:
        """What was handed over as a file of a form. Raises BadInputError."""
        self.account(request)
        async with request.form(max_files=1) as form:
            match form.get(field):
                case UploadFile() as file:
                    media_type = file.content_type or "application/octet-stream"
                    upload = self.expect(file.filename or "", media_type)
                    upload.still = Still.of(await file.read())
                    return upload
                case _:
                    raise BadInputError(field, "missing", f"{field}: field required")

    def upload_token(self) -> str:
        """A pass for uploads alone."""
        token = secrets.token_urlsafe(32)
        self._upload_tokens.add(token)
        return token

    def check_upload_token(self, token: str) -> None:
        if token not in self._upload_tokens:
            raise UnauthorizedError("no upload token")

    def upload_url(self, request: Request, place: str, upload: Upload) -> str:
        name = quote(upload.filename)
        return f"{self.base(request)}/{place}/{upload.id}/{name}"

    def shown_key(self, request: Request) -> bool:
        """Whether a key came along to where none belongs."""
        shown = "authorization" in request.headers
        self.keys_shown += shown
        return shown


async def send_still(desk: Desk, request: Request) -> Response:
    """A still that was handed over, to whoever knows its URL."""
    upload = desk.upload(request)
    if upload.still is None:
        raise NotFoundError("nothing was uploaded here")
    return Response(upload.still.content, media_type=upload.media_type)


async def _download(desk: Desk, request: Request) -> Response:
    desk.shown_key(request)
    return await _sent(desk, request.path_params["id"])


async def _sent(desk: Desk, prediction_id: str) -> Response:
    prediction = desk.world.download(prediction_id)
    fault = prediction.fault if prediction.downloads == 1 else None
    clip = await desk.film(prediction)
    match fault:
        case Fault.TRUNCATED_CLIP:
            return Response(clip[: len(clip) * 2 // 3], media_type="video/mp4")
        case Fault.CUT_CLIP:
            return HalfAnswer(clip, media_type="video/mp4")
        case Fault.HTML_CLIP:
            return web_page(b"<!doctype html><title>One moment</title>", 200)
        case Fault.EMPTY_CLIP:
            return Response(b"", media_type="video/mp4")
        case _:
            return Response(clip, media_type="video/mp4")
