"""Kling's dialect: tokens, two names for a task, and its own codes beside HTTP's."""

import base64
import time
from decimal import Decimal

import httpx
import jwt
import pytest

from tasks.emulator import Emulator, Fault

CLIPS = "/kling/v1/videos/image2video"
SECRET = "a-secret-of-thirty-two-bytes-5160"
KEY = f"access:{SECRET}"


def token(secret=SECRET, *, access="access", exp_s=1800, nbf_s=-5, **more):
    now = int(time.time())
    claims = {"iss": access, "exp": now + exp_s, "nbf": now + nbf_s, **more}
    return jwt.encode(claims, secret, "HS256")


class Shop:
    """A client with a key pair."""

    def __init__(self, base, http, still):
        self.base, self.http = base, http
        self.image = base64.b64encode(still).decode()

    def ask(self, path="", *, shown=None, **params):
        headers = {"Authorization": f"Bearer {shown or token()}"}
        url = f"{self.base}{CLIPS}{path}"
        return self.http.get(url, headers=headers, params=params)

    def submit(self, *, shown=None, **fields):
        asked = {
            "model_name": "kling-v2-5-turbo",
            "image": self.image,
            "prompt": "dolly",
        }
        wanted = {
            name: value for name, value in (asked | fields).items() if value is not None
        }
        headers = {"Authorization": f"Bearer {shown or token()}"}
        return self.http.post(f"{self.base}{CLIPS}", json=wanted, headers=headers)

    def buy(self, **fields):
        return self.submit(**fields).raise_for_status().json()["data"]["task_id"]

    def task(self, name):
        return self.ask(f"/{name}").raise_for_status().json()["data"]


@pytest.fixture
def open_shop(emulate, still):
    def opened(emulator):
        customer = emulate(emulator)
        return Shop(customer.base, customer.http, still)

    return opened


def told(answer):
    return answer.status_code, answer.json()["code"]


def test_a_still_in_the_request_becomes_a_clip_and_a_charge(open_shop):
    emulator = Emulator(latency_s=0, clip=b"a clip")
    shop = open_shop(emulator)

    answer = shop.submit(mode="pro", duration="10", external_task_id="ref-1")
    task = shop.task(answer.json()["data"]["task_id"])

    assert answer.json()["code"] == 0
    assert answer.json()["data"]["task_status"] == "submitted"
    assert answer.json()["data"]["task_info"] == {"external_task_id": "ref-1"}
    assert task["task_status"] == "succeed"
    assert task["final_unit_deduction"] == "5"
    [clip] = task["task_result"]["videos"]
    assert clip["duration"] == "10"
    assert httpx.get(clip["url"]).content == b"a clip"
    (charge,) = emulator.bill
    assert (charge.price_usd, charge.outcome) == ("0.70", "succeeded")
    assert charge.image.startswith("sha256:")


def test_a_task_is_found_by_either_of_its_names(open_shop):
    shop = open_shop(Emulator(latency_s=10, clip=b"a clip"))
    bought = shop.buy(external_task_id="ref-1")
    shop.buy(external_task_id="ref-2")

    assert shop.task("ref-1")["task_id"] == bought
    assert shop.task(bought)["task_info"] == {"external_task_id": "ref-1"}
    assert told(shop.ask("/ref-3")) == (404, 1203)


def test_a_name_is_taken_once(open_shop):
    emulator = Emulator(latency_s=0, clip=b"a clip")
    shop = open_shop(emulator)
    shop.buy(external_task_id="ref-1")

    answer = shop.submit(external_task_id="ref-1")

    assert told(answer) == (400, 1201)
    assert "external_task_id" in answer.json()["message"]
    assert len(emulator.bill) == 1


def test_the_newest_tasks_are_listed_first(open_shop):
    shop = open_shop(Emulator(latency_s=0, clip=b"a clip"))
    bought = [shop.buy() for _ in range(3)]

    first = shop.ask(pageNum=1, pageSize=2).json()["data"]
    second = shop.ask(pageNum=2, pageSize=2).json()["data"]

    assert [task["task_id"] for task in [*first, *second]] == bought[::-1]
    assert told(shop.ask(pageSize=501)) == (400, 1201)


@pytest.mark.parametrize(
    ("shown", "code"),
    [
        (token("another-secret-of-thirty-two-bytes"), 1002),
        (token(access="nobody"), 1002),
        (token(exp_s=-1), 1004),
        (token(nbf_s=86_400, exp_s=2 * 86_400), 1003),
        (KEY, 1002),
        (jwt.encode({"iss": "access"}, SECRET, "HS256"), 1002),
    ],
    ids=["forged", "nobody's", "expired", "early", "the key itself", "endless"],
)
def test_a_token_that_its_owner_did_not_make_for_now_is_refused(open_shop, shown, code):
    emulator = Emulator(keys={"other:one", KEY})
    shop = open_shop(emulator)

    assert told(shop.submit(shown=shown)) == (401, code)
    assert told(shop.ask("/1", shown=shown)) == (401, code)
    assert emulator.bill == []


def test_an_owners_token_is_good_and_all_of_them_are_one_account(open_shop):
    emulator = Emulator(keys={KEY}, clip=b"a clip")
    shop = open_shop(emulator)

    for later_s in (1800, 1700):
        shop.submit(shown=token(exp_s=later_s)).raise_for_status()

    assert len({charge.key for charge in emulator.bill}) == 1


def test_too_many_too_fast_and_too_poor_are_three_refusals(open_shop, clock):
    busy = open_shop(Emulator(latency_s=10, slots=1, clock=clock))
    fast = open_shop(Emulator(latency_s=0, submits_per_minute=1, clock=clock))
    poor = open_shop(Emulator(latency_s=0, credit_usd=Decimal("0.30"), clock=clock))

    for shop in (busy, fast, poor):
        shop.buy()

    assert told(busy.submit()) == (429, 1303)
    assert told(fast.submit()) == (429, 1302)
    assert told(poor.submit()) == (429, 1102)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"duration": 5}, 1201),
        ({"duration": "8"}, 1201),
        ({"mode": "fast"}, 1201),
        ({"image": None}, 1201),
        ({"image": "data:image/png;base64,iVBORw0KGgo="}, 1201),
        ({"prompt": "x" * 2501}, 1201),
        ({"negative_prompt": 7}, 1201),
        ({"cfg_scale": 7.5}, 1201),
        ({"external_task_id": 7}, 1201),
        ({"model_name": "kling-v9"}, 1203),
        ({"model_name": None, "model": "kling-v2-5-turbo"}, 1203),
    ],
)
def test_request_invalid_at_kling_is_refused_and_not_charged(open_shop, fields, code):
    emulator = Emulator()
    shop = open_shop(emulator)

    assert shop.submit(**fields).json()["code"] == code
    assert emulator.bill == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.FAIL, "Generation failed"),
        (Fault.REFUSE_CONTENT, "Failure to pass the risk control system"),
    ],
)
def test_failed_task_gives_its_reason_and_is_free(open_shop, fault, reason):
    emulator = Emulator(latency_s=0, faults={"dolly": [fault]})
    shop = open_shop(emulator)

    task = shop.task(shop.buy())

    assert (task["task_status"], task["task_status_msg"]) == ("failed", reason)
    assert "final_unit_deduction" not in task
    assert emulator.total_usd == 0


def test_a_still_that_is_no_picture_fails_the_task(open_shop):
    shop = open_shop(Emulator(latency_s=0))

    assert shop.task(shop.buy(image="bm8="))["task_status"] == "failed"


def test_a_clip_is_kept_for_thirty_days_and_its_task_for_longer(open_shop, clock):
    shop = open_shop(Emulator(latency_s=0, clip=b"a clip", clock=clock))
    bought = shop.buy()
    [clip] = shop.task(bought)["task_result"]["videos"]

    clock.now += 29 * 24 * 3600
    kept = httpx.get(clip["url"]).status_code
    clock.now += 2 * 24 * 3600
    cleared = httpx.get(clip["url"]).status_code

    assert (kept, cleared) == (200, 404)
    assert shop.task(bought)["task_status"] == "succeed"


def test_any_other_page_is_not_there(open_shop):
    shop = open_shop(Emulator())

    answer = shop.http.get(f"{shop.base}/kling/v2/nothing")

    assert told(answer) == (404, 1203)
