"""The API of one emulated provider: the parts that all have in common.

To add a provider, write a class with the members of `Dialect` in `dialects/` and add it to
`app.DIALECTS`.
"""

import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, runtime_checkable
from urllib.parse import quote

from starlette.datastructures import Headers, UploadFile
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from tasks.emulator.accounts import Account, Terms
from tasks.emulator.clips import MOVES, ClipFormat, Clips
from tasks.emulator.faults import Fault
from tasks.emulator.predictions import ClipSpec, Prediction, Stage
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
    dripping,
    read_json,
    web_page,
)
from tasks.emulator.state import State
from tasks.emulator.uploads import Still, Stills, UnreadableStillError, Upload

REFUSALS: Final = 7
"""The downloads that `REFUSED_CLIP` and `PAGE_CLIP` spoil: one more than a client tries in a row."""


class Dialect(Protocol):
    """The paths, fields and words of one provider."""

    @property
    def name(self) -> str:
        """The provider's name and path prefix: `atlas` is served under `/atlas`."""
        ...

    @property
    def scheme(self) -> str:
        """The scheme of the Authorization header."""
        ...

    @property
    def terms(self) -> Terms: ...

    def parse(
        self, offer: Offer, body: Mapping[str, Any], headers: Headers
    ) -> ClipSpec:
        """Return the clip that a submit asks for. Raises BadInputError."""
        ...

    def accepted(self, base: str, prediction: Prediction) -> Response:
        """Return the response to an accepted submit."""
        ...

    def refused(self, error: RefusedError) -> Response:
        """Return the response to a refused request."""
        ...

    def routes(self, api: "EmulatedApi") -> Sequence[BaseRoute]: ...


@runtime_checkable
class TokenAuth(Protocol):
    """A dialect whose customers send a token that they made from their key."""

    def key_of(self, token: str, keys: Collection[str] | None) -> str:
        """Return the key of a token: one of `keys`, or any key if `keys` is None.

        Raises:
            UnauthorizedError: the token is invalid or has expired.
        """
        ...


@dataclass(frozen=True, slots=True)
class Shared:
    """The parts that all emulated APIs use together."""

    state: State
    stills: Stills
    clips: Clips
    pages: dict[str, Response] = field(default_factory=dict[str, Response])
    """Answers of a proxy in front of the provider, by the kind of request."""


Handler = Callable[["EmulatedApi", Request], Awaitable[Response]]


class EmulatedApi:
    """Serves one provider's requests."""

    def __init__(
        self,
        dialect: Dialect,
        *,
        terms: Terms,
        offers: Mapping[str, Offer],
        shared: Shared,
    ) -> None:
        self.state = shared.state
        self.requests: Counter[str] = Counter()
        """Counts by kind: submit, poll, list, check, charge, upload, still, download, lost."""
        self.keys_shown = 0
        """Keys that came with a download or a presigned upload, whose hosts must not get
        them."""
        self._dialect = dialect
        self._token_auth = dialect if isinstance(dialect, TokenAuth) else None
        self._terms = terms
        self._offers = offers
        self._stills = shared.stills
        self._clips = shared.clips
        self._pages = shared.pages
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
        """Return a route that answers refusals in the dialect's words."""

        async def page(request: Request) -> Response:
            self.requests[kind] += 1
            if (in_front := self._pages.get(kind)) is not None:
                return in_front
            try:
                return await handler(self, request)
            except GatewayError:
                return web_page(BAD_GATEWAY, 502)
            except RefusedError as error:
                return self._dialect.refused(error)

        return Route(path, page, methods=[method])

    @property
    def offers(self) -> Mapping[str, Offer]:
        """The provider's models by the provider's own ids."""
        return self._offers

    def offer(self, model: str) -> Offer:
        """Return one of the models. Raises UnknownModelError."""
        if model not in self._offers:
            raise UnknownModelError(model)
        return self._offers[model]

    def base(self, request: Request) -> str:
        """Return the provider's address as this client reached it."""
        host = request.headers["host"]
        return f"{request.scope['scheme']}://{host}/{self._dialect.name}"

    def account(self, request: Request) -> Account:
        """Return the account of a request. Raises UnauthorizedError."""
        shown = request.headers.get("authorization", "")
        if not shown and self._terms.keyless and self.state.keys is None:
            return self.state.account(self._dialect.name, "nobody", self._terms)
        scheme, _, key = shown.partition(" ")
        if scheme.lower() != self._dialect.scheme.lower():
            raise UnauthorizedError("no key")
        if self._token_auth is not None:
            key = self._token_auth.key_of(key.strip(), self.state.keys)
        return self.state.account(self._dialect.name, key.strip(), self._terms)

    async def body(self, request: Request) -> Mapping[str, Any]:
        """Return the JSON object of a request. Raises UnauthorizedError, BadInputError."""
        self.account(request)
        body = await read_json(request)
        if body is None:
            raise BadInputError("", "json_invalid", "the body is not a JSON object")
        return body

    async def submit(
        self, request: Request, model: str, body: Mapping[str, Any]
    ) -> Response:
        """Accept and charge a submit, and then apply the fault of its answer.

        Raises:
            RefusedError: the provider refuses it.
        """
        account = self.account(request)
        offer = self.offer(model)
        spec = self._dialect.parse(offer, body, request.headers)
        image = self._stills.identity(spec.image)
        prediction = self.state.submit(account, spec, image)
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
        """Return a prediction and its stage. Raises NotFoundError."""
        account = self.account(request)
        prediction, stage = self.state.poll(account, prediction_id)
        if stage is Stage.SUCCEEDED and await self._still(prediction) is None:
            stage = Stage.UNREADABLE
        return prediction, stage

    async def send_clip(self, request: Request, prediction: Prediction) -> Response:
        """Return the clip, for a provider whose downloads need the key."""
        self.account(request)
        return await _sent(self, prediction.id)

    def position(self, request: Request, prediction: Prediction) -> int:
        """Return how many predictions are ahead in the queue."""
        return self.state.position(self.account(request), prediction)

    def clip_url(self, request: Request, prediction: Prediction) -> str:
        return f"{self.base(request)}/clips/{prediction.id}/clip.mp4"

    async def clip(self, prediction: Prediction) -> bytes:
        """Return the clip's bytes. Raises NotFoundError."""
        still = await self._still(prediction)
        if still is None:
            raise NotFoundError("no such clip")
        spec = prediction.spec
        form = ClipFormat(
            resolution=spec.resolution,
            aspect_ratio=spec.aspect_ratio,
            frames=spec.frames,
            fps=spec.fps,
            move=prediction.seed % MOVES,
        )
        return await self._clips.clip(still, form)

    async def _still(self, prediction: Prediction) -> Still | None:
        # Nothing runs in the background, so a poll decodes the still; a client sees no
        # difference.
        if prediction.still is None:
            try:
                prediction.still = await self._stills.load(prediction.spec.image)
            except UnreadableStillError:
                prediction.stage = Stage.UNREADABLE
        return prediction.still

    def expect(self, filename: str, media_type: str) -> Upload:
        """Create an upload that has no bytes yet."""
        return self._stills.expect(filename, media_type)

    def upload(self, request: Request) -> Upload:
        """Return the upload at this URL. Raises NotFoundError."""
        upload = self._stills.upload(request.path_params["id"])
        if upload is None:
            raise NotFoundError("no such upload")
        return upload

    async def form(self, request: Request, field: str = "file") -> Upload:
        """Store the file of a form as an upload. Raises BadInputError."""
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
        """Return a new token that allows uploads only."""
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
        """Whether a request carries a key that its host must not get."""
        shown = "authorization" in request.headers
        self.keys_shown += shown
        return shown


def not_found(*methods: str) -> Sequence[tuple[str, str, str, Handler]]:
    """Return pages for all other paths, which answer "not found"."""
    return [(method, "/{page:path}", "lost", _lost) for method in methods]


async def _lost(api: EmulatedApi, request: Request) -> Response:
    del api
    raise NotFoundError(f"no page {request.url.path}")


async def send_still(api: EmulatedApi, request: Request) -> Response:
    """Send an uploaded still to any client that knows its URL."""
    upload = api.upload(request)
    if upload.still is None:
        raise NotFoundError("nothing was uploaded here")
    return Response(upload.still.content, media_type=upload.media_type)


async def _download(api: EmulatedApi, request: Request) -> Response:
    api.shown_key(request)
    return await _sent(api, request.path_params["id"])


async def _sent(api: EmulatedApi, prediction_id: str) -> Response:
    prediction = api.state.download(prediction_id)
    fault = prediction.fault if prediction.downloads == 1 else None
    if prediction.fault is Fault.REFUSED_CLIP and prediction.downloads <= REFUSALS:
        return web_page(b"<!doctype html><title>403 Forbidden</title>", 403)
    if prediction.fault is Fault.PAGE_CLIP and prediction.downloads <= REFUSALS:
        return web_page(b"<!doctype html><title>One moment</title>", 200)
    clip = await api.clip(prediction)
    match fault:
        case Fault.TRUNCATED_CLIP:
            return Response(clip[: len(clip) * 2 // 3], media_type="video/mp4")
        case Fault.CUT_CLIP:
            return HalfAnswer(clip, media_type="video/mp4")
        case Fault.HTML_CLIP:
            return web_page(b"<!doctype html><title>One moment</title>", 200)
        case Fault.EMPTY_CLIP:
            return Response(b"", media_type="video/mp4")
        case Fault.DRIP_CLIP:
            length = {"content-length": str(len(clip))}
            return StreamingResponse(dripping(clip), headers=length)
        case _:
            return Response(clip, media_type="video/mp4")
