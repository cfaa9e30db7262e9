"""The API of one emulated provider: the parts that all have in common.

To add a provider, write a class with the members of `Dialect` in `dialects/` and add it to
`app.DIALECTS`.
"""

import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tasks.emulator.accounts import Account, Terms
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
    read_json,
    web_page,
)
from tasks.emulator.shared import Shared
from tasks.emulator.uploads import Upload


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
        self._shared = shared
        self._upload_tokens: set[str] = set()

    def routes(self) -> Sequence[BaseRoute]:
        return self._dialect.routes(self)

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
            if (in_front := self._shared.pages.get(kind)) is not None:
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
        image = self._shared.stills.identity(spec.image)
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
        if stage is Stage.SUCCEEDED and await self._shared.still(prediction) is None:
            stage = Stage.UNREADABLE
        return prediction, stage

    def position(self, request: Request, prediction: Prediction) -> int:
        """Return how many predictions are ahead in the queue."""
        return self.state.position(self.account(request), prediction)

    def clip_url(self, request: Request, prediction: Prediction) -> str:
        return f"{self.base(request)}/clips/{prediction.id}/clip.mp4"

    async def clip(self, prediction: Prediction) -> bytes:
        return await self._shared.clip(prediction)

    def expect(self, filename: str, media_type: str) -> Upload:
        """Create an upload that has no bytes yet."""
        return self._shared.stills.expect(filename, media_type)

    def upload(self, request: Request) -> Upload:
        """Return the upload at this URL. Raises NotFoundError."""
        upload = self._shared.stills.upload(request.path_params["id"])
        if upload is None:
            raise NotFoundError("no such upload")
        return upload

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
