"""Atlas Cloud: https://atlascloud.ai/docs/en (errors, data-retention), read 2026-11.

Its envelope is `{code, msg, data}`, and it sends no Retry-After.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import httpx

from storage.media import Still
from tasks.providers.errors import NotFoundError, ProviderError
from tasks.providers.job_failures import always, failures, has
from tasks.providers.parsing import (
    amount,
    has_model,
    read_body,
    status_words,
    value_at,
)
from tasks.providers.predictions import NO_MODEL, NOBODYS_ID, PredictionApi
from tasks.providers.protocol import AccountReport, Exchange
from tasks.providers.refusals import Refusals, refusal
from tasks.providers.stills import as_file
from tasks.providers.submissions import KEPT_DAYS, Submission, clip_fields

MODEL: Final = "/api/v1/model"
# The first two are in its MCP server (at cc4a9c9d, read 2026-11). The third prices a
# request without making it, by several public repositories (secondary, read 2026-11).
BALANCE: Final = "/public/v1/balance"
MODELS: Final = "/api/v1/models"
PRICE: Final = f"{MODEL}/calculate"
MODERATED: Final = 1039

# Without the record a ticket cannot be polled, without the object there is no clip.
RETENTION: Final = {
    "X-AtlasCloud-Object-Expiration-Hours": str(KEPT_DAYS * 24),
    "X-AtlasCloud-Request-Retention-Hours": str(KEPT_DAYS * 24),
}
CHECK_KEY: Final = (
    "check the key; a wrong URL path gets the same answer, so check base_url too"
)
NOT_ALLOWED: Final = "check that the key and the account may use this model"
NO_SUCH_MODEL: Final = f"{NO_MODEL}: this account has none such"
REGION: Final = "Atlas does not serve this region; use another lane"
REFUSALS: Final = Refusals(
    provider="atlas",
    mark="code",
    uploads="/uploadMedia",
    asks=("/model/calculate",),
    table=(
        refusal("auth", 401, fix=CHECK_KEY),
        refusal("credit", 402, fix="top up the account at https://www.atlascloud.ai"),
        refusal("permission", 403, fix=NOT_ALLOWED),
        refusal("permission", 404, submit_only=True, fix=NO_SUCH_MODEL),
        refusal("permission", 451, fix=REGION),
        refusal("content", MODERATED),
        refusal("invalid", 400, 413, 422),
        refusal("throttled", 429),
    ),
)
FAILURES: Final = failures(
    (
        "content",
        f"`failed` with error_code {MODERATED}",
        has("error_code", MODERATED, str(MODERATED)),
    ),
    ("server", "`failed`, `timeout`, `cancelled`", always),
    charged=False,
    source="docs, billing/refunds: failed tasks are not charged, read 2026-11",
)


@dataclass(frozen=True, slots=True)
class Atlas(PredictionApi):
    """Takes a flat body with the model in it; lists a prediction after up to 30 s."""

    name: ClassVar = "atlas"
    api: ClassVar = "https://api.atlascloud.ai"
    hosts: ClassVar = frozenset({"api.atlascloud.ai"})
    refusals: ClassVar = REFUSALS
    failures: ClassVar = FAILURES
    enveloped: ClassVar = True
    task_path: ClassVar = f"{MODEL}/prediction/{{}}"
    hook_field: ClassVar = "webhook_url"
    words: ClassVar = status_words(
        waiting="created pending starting processing running",
        ready="completed succeeded",
        failed="failed timeout cancelled",
    )

    def upload(self, still: Still) -> Exchange[str]:
        form = {"file": as_file(still)}
        request = self._request("POST", f"{MODEL}/uploadMedia", files=form)
        return self._link(request, "data", "download_url")

    def _submit_request(self, asked: Submission) -> httpx.Request:
        path = f"{MODEL}/generateVideo"
        return self._post(path, self._fields(asked), headers=RETENTION)

    def judge(self, response: httpx.Response) -> ProviderError | None:
        error = PredictionApi.judge(self, response)
        if error is None or REFUSALS.step(response.request) != "ask":
            return error
        if self._answer_code(response, read_body(response)) == 400:
            # Like 404: Atlas lists a prediction after up to 30 s (ComfyUI client).
            return NotFoundError(f"{self.name}: HTTP 400: no such prediction yet")
        return error

    def _is_expected(self, response: httpx.Response, body: Any, code: int) -> bool:
        del body
        path = response.request.url.path
        # These three only add to a check, so they must not fail it.
        is_extra = path.endswith((BALANCE, MODELS, PRICE)) and code < 500
        return is_extra or (path.endswith(NOBODYS_ID) and code in {400, 404})

    def check(self) -> Exchange[AccountReport]:
        yield self._task_request(NOBODYS_ID)
        balance = yield from self._get(BALANCE)
        models = yield from self._ask(httpx.Request("GET", f"{self.api}{MODELS}"))
        prices = yield from self._prices(
            lambda asked: self._request("POST", PRICE, json=self._fields(asked))
        )
        in_usd = str(value_at(balance, "available", "currency")).lower() == "usd"
        credit_usd = amount(value_at(balance, "available", "value"))
        return AccountReport(
            credit_usd=credit_usd if in_usd else None,
            prices_usd=prices,
            has_model=has_model(self.route, models, "model"),
        )

    def _fields(self, asked: Submission) -> dict[str, object]:
        # Atlas ignores fields under `input`, and would make a clip with its defaults.
        return {"model": self._model(asked.job), **clip_fields(self.route, asked)}
