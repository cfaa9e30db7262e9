"""The emulator accepts stills in every way that providers do."""

import hashlib

import httpx
import pytest

from tasks.emulator import Emulator


def ticket(shop, filename="cat & dog.jpg", size=9):
    asked = {"filename": filename, "size": size, "content_type": "image/jpeg"}
    url = f"{shop.base}/wavespeed/api/v3/media/uploads"
    answer = shop.http.post(url, json=asked, headers=shop.headers("wavespeed"))
    return answer.raise_for_status().json()["data"]


def sha256(still):
    return f"sha256:{hashlib.sha256(still).hexdigest()}"


@pytest.fixture
def emulator():
    return Emulator(latency_s=0, clip=b"a clip")


@pytest.fixture
def shop(emulate, emulator):
    return emulate(emulator)


def test_a_ticket_takes_a_still_and_keeps_it_at_its_url(shop, emulator, still):
    given = ticket(shop)
    upload = given["upload"]

    put = httpx.put(upload["url"], content=still, headers=upload["headers"])

    assert upload["method"] == "PUT"
    assert put.status_code == 200
    assert httpx.get(given["download_url"]).content == still
    prediction = shop.buy("wavespeed", image=given["download_url"])
    assert shop.poll("wavespeed", prediction).json()["data"]["status"] == "completed"
    assert emulator.bill[0].image == sha256(still)


def test_a_presigned_upload_refuses_a_key_and_notices_it(shop, emulator, still):
    upload = ticket(shop)["upload"]
    headers = upload["headers"] | shop.headers("wavespeed")

    put = httpx.put(upload["url"], content=still, headers=headers)

    assert put.status_code == 400
    assert emulator.stats()["keys_shown"] == 1


def test_presigned_upload_requires_the_signed_request(shop, still):
    upload = ticket(shop)["upload"]
    unsigned = upload["url"].partition("?")[0]

    assert httpx.put(unsigned, content=still).status_code == 403
    other = {"Content-Type": "image/png"}
    assert httpx.put(upload["url"], content=still, headers=other).status_code == 403


def test_still_that_was_never_uploaded_is_refused(shop, emulator):
    prediction = shop.buy("wavespeed", image=ticket(shop)["download_url"])

    assert shop.poll("wavespeed", prediction).json()["data"]["code"] == 1402
    assert emulator.total_usd == 0


@pytest.mark.parametrize(
    ("dialect", "path"),
    [
        ("wavespeed", "/wavespeed/api/v3/media/upload/binary"),
        ("atlas", "/atlas/api/v1/model/uploadMedia"),
    ],
)
def test_a_form_takes_a_still(shop, emulator, still, dialect, path):
    files = {"file": ("cat.jpg", still, "image/jpeg")}

    answer = shop.http.post(
        shop.base + path, files=files, headers=shop.headers(dialect)
    ).json()

    assert answer["code"] == 200
    assert answer["data"]["filename"] == "cat.jpg"
    assert answer["data"]["size"] == len(still)
    shop.buy(dialect, image=answer["data"]["download_url"])
    assert emulator.bill[0].image == sha256(still)


def test_fal_answers_with_an_upload_url(shop, emulator, still):
    url = f"{shop.base}/fal/storage/upload/initiate?storage_type=fal-cdn-v3"
    asked = {"file_name": "cat.jpg", "content_type": "image/jpeg"}
    given = shop.http.post(url, json=asked, headers=shop.headers("fal")).json()

    headers = {"Content-Type": "image/jpeg"}
    httpx.put(given["upload_url"], content=still, headers=headers).raise_for_status()

    assert set(given) == {"upload_url", "file_url"}
    shop.buy("fal", image_url=given["file_url"])
    assert emulator.bill[0].image == sha256(still)


@pytest.mark.parametrize(
    ("dialect", "path"),
    [
        ("wavespeed", "/wavespeed/api/v3/media/uploads"),
        ("wavespeed", "/wavespeed/api/v3/media/upload/binary"),
        ("atlas", "/atlas/api/v1/model/uploadMedia"),
        ("fal", "/fal/storage/upload/initiate"),
        ("fal", "/fal/storage/auth/token"),
        ("fal", "/fal/files/upload"),
    ],
)
def test_an_upload_needs_a_key(shop, dialect, path):
    answer = shop.http.post(shop.base + path, json={})

    assert answer.status_code == 401, dialect


def test_still_is_fetched_from_its_url(shop, emulate, still):
    elsewhere = emulate(Emulator())
    given = ticket(elsewhere)
    upload = given["upload"]
    httpx.put(upload["url"], content=still, headers=upload["headers"])

    prediction = shop.buy("wavespeed", image=given["download_url"])

    assert shop.poll("wavespeed", prediction).json()["data"]["status"] == "completed"


def test_a_still_over_10_mb_is_not_fetched_to_its_end(shop, emulate):
    elsewhere = emulate(Emulator())
    given = ticket(elsewhere)
    upload = given["upload"]
    huge = bytes(11 * 2**20)
    httpx.put(upload["url"], content=huge, headers=upload["headers"])

    prediction = shop.buy("wavespeed", image=given["download_url"])

    assert shop.poll("wavespeed", prediction).json()["data"]["code"] == 1402


@pytest.mark.parametrize(
    "image", ["data:image/jpeg;base64,bm90IGFuIGltYWdl", "cat.jpg"]
)
def test_invalid_image_fails_the_job_with_the_providers_message(shop, image):
    wavespeed = shop.poll("wavespeed", shop.buy("wavespeed", image=image))
    atlas = shop.poll("atlas", shop.buy("atlas", image=image))
    fal = shop.poll("fal", shop.buy("fal", image_url=image))

    assert wavespeed.json()["data"]["code"] == 1402
    assert atlas.json()["data"]["status"] == "failed"
    assert (fal.status_code, fal.json()["detail"][0]["type"]) == (
        422,
        "image_load_error",
    )
