"""A job's id decides what is paid for: the same clip has one id, another clip another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.jobs import SEEDS, Job
from manifests.uris import unsigned

PLAIN = Job(image="s3://b/a.jpg", prompt="p")
HOSTS = st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True)
PATHS = st.from_regex(r"(/[A-Za-z0-9._~%-]{1,9}){1,4}", fullmatch=True)
# Few values, so that two draws are often equal or nearly equal.
NEAR = st.sampled_from(["h/a", "h/b", "g/a", "h/%61", "h:80/a", "H/a", "h/a/"])
OWN = "v=1 v=2 V=1 k=%FF k=%FE k=%ff flag flag= size=%20 size=+ s=1 expires2=1".split()
QUERIES = st.lists(st.sampled_from([*OWN, ""]), max_size=2)
PIECES = [
    *"a9:/@?#&=%[]. é",
    *("::", "://", "https", "s3", "sftp", "zip", "%FF", "%2D", "\ud800", "\u2100"),
    *("X-Amz-Signature=", "sv=", "sig=", "Signature=", "Key-Pair-Id=", "[::1]"),
]

# The examples of links in the documentation of the cloud providers.
PROOFS = {
    "S3 v4": "X-Amz-Algorithm=AWS4-HMAC-SHA256 X-Amz-Credential=s3cret X-Amz-Date=1 "
    "X-Amz-Expires=9 X-Amz-SignedHeaders=host X-Amz-Security-Token=s3cret "
    "X-Amz-Signature=s3cret x-id=GetObject",
    "S3 v2": "AWSAccessKeyId=s3cret Signature=s3cret Expires=1",
    "CloudFront, canned": "Expires=1 Signature=s3cret Key-Pair-Id=s3cret "
    "Hash-Algorithm=SHA256",
    "CloudFront, custom": "Policy=s3cret Signature=s3cret Key-Pair-Id=s3cret",
    "GCS v4": "X-Goog-Algorithm=GOOG4-RSA-SHA256 X-Goog-Credential=s3cret X-Goog-Date=1 "
    "X-Goog-Expires=9 X-Goog-SignedHeaders=host X-Goog-Signature=s3cret",
    "GCS v2": "GoogleAccessId=s3cret Expires=1 Signature=s3cret",
    "Cloud CDN": "URLPrefix=s3cret Expires=1 KeyName=k Signature=s3cret",
    "Azure, service": "sv=2024-08-04 st=1 se=2 sr=b sp=r spr=https sip=1.2.3.4 sig=s3cret",
    "Azure, account": "sv=2024-08-04 ss=b srt=o sp=r se=2 sig=s3cret",
    "Azure, user": "sv=2024-08-04 se=2 sr=b sp=r skoid=s3cret sktid=s3cret skt=1 ske=2 "
    "sks=b skv=2024-08-04 saoid=s3cret sig=s3cret",
    "OSS v1": "OSSAccessKeyId=s3cret Expires=1 Signature=s3cret security-token=s3cret",
    "OSS v4": "x-oss-signature-version=OSS4-HMAC-SHA256 x-oss-credential=s3cret "
    "x-oss-date=1 x-oss-expires=9 x-oss-signature=s3cret x-oss-security-token=s3cret",
    "COS": "q-sign-algorithm=sha1 q-ak=s3cret q-sign-time=1;2 q-key-time=1;2 "
    "q-header-list=host q-url-param-list= q-signature=s3cret "
    "x-cos-security-token=s3cret",
    "OBS": "AccessKeyId=s3cret Expires=1 Signature=s3cret x-obs-security-token=s3cret",
    "bunny.net": "token=HS256-s3cret expires=1 token_path=%2Fstills%2F",
}
PROOFS = {kind: proof.split() for kind, proof in PROOFS.items()}


@st.composite
def places(draw):
    """A link that needs no proof, and its query."""
    return f"https://{draw(NEAR)}", draw(QUERIES)


@st.composite
def proven(draw, place):
    """The same link with a proof of some kind, among its own parameters in any order."""
    link, query = place
    both = draw(st.permutations(PROOFS[draw(st.sampled_from([*PROOFS]))]))
    where = st.lists(
        st.integers(0, len(both)), min_size=len(query), max_size=len(query)
    )
    for n, own in reversed([*zip(sorted(draw(where)), query, strict=True)]):
        both.insert(n, own)
    user = draw(st.sampled_from(["", "me:s3cret@", "s3cret@"]))
    fragment = draw(st.sampled_from(["", "#", "#s3cret"]))
    return link.replace("//", f"//{user}", 1) + "?" + "&".join(both) + fragment


@pytest.mark.parametrize(
    "other",
    [
        {"image": "s3://b/b.jpg"},
        {"prompt": "q"},
        {"negative_prompt": "text"},
        {"model": "wan-2.2"},
        {"resolution": "720p"},
        {"duration_s": 8},
        {"aspect_ratio": "1:1"},
        {"seed": 0},
        {"take": 2},
        {"content": "general"},
        {"content": "adult"},
        {"model": "wan-2.2,premium"},
        {"model": "premium,wan-2.2"},
    ],
)
def test_whatever_changes_the_clip_changes_the_id(other):
    changed = Job(**{"image": "s3://b/a.jpg", "prompt": "p"} | other)

    assert changed.id != PLAIN.id


def test_the_id_is_the_same_in_every_process_and_every_release():
    assert PLAIN.id == Job(image="s3://b/a.jpg", prompt="p").id
    assert PLAIN.id == "19291d3edbeef9eb908223b13cef6200"


def test_row_without_content_keeps_its_earlier_id():
    """A row without content has the id it had before the column existed."""
    job = Job(
        image="s3://b/a.jpg",
        prompt="slow pan, é",
        negative_prompt="text",
        model="wan-2.2",
        resolution="720p",
        duration_s=8,
        aspect_ratio="1:1",
        seed=0,
        take=2,
    )

    assert job.id == "5863efed5d087db3e8bc00a95cdb5b25"


def test_two_orders_of_preference_are_two_wishes():
    ids = {
        Job(image="i", prompt="p", model=model).id
        for model in ("wan-2.2", "wan-2.2,premium", "premium,wan-2.2", "premium")
    }

    assert len(ids) == 4


@pytest.mark.parametrize(
    ("model", "models"),
    [("", ()), ("wan-2.2", ("wan-2.2",)), ("b,premium,a", ("b", "premium", "a"))],
)
def test_a_job_names_its_models_in_order_of_preference(model, models):
    assert Job(image="i", prompt="p", model=model).models == models


def test_no_two_fields_run_into_each_other():
    assert Job(image="a", prompt="bc").id != Job(image="ab", prompt="c").id


@given(st.integers(0, SEEDS - 1), st.integers(0, 100))
def test_every_seed_is_one_that_all_providers_take(seed, discards):
    job = Job(image="i", prompt="p", seed=seed)

    assert 0 <= job.seed_after(discards) < SEEDS
    assert 0 <= PLAIN.seed_after(discards) < SEEDS


def test_a_discarded_attempt_moves_the_seed_on_by_one():
    job = Job(image="i", prompt="p", seed=SEEDS - 1)

    assert [job.seed_after(n) for n in range(3)] == [SEEDS - 1, 0, 1]


@pytest.mark.parametrize("proof", PROOFS.values(), ids=PROOFS)
@pytest.mark.parametrize("place", ["https://h/a.jpg", "s3://b/a.jpg", "stills/a.jpg"])
def test_a_link_that_is_signed_anew_names_the_same_still(place, proof):
    signed = "&".join(proof)

    assert unsigned(f"{place}?{signed}") == place
    assert unsigned(f"{place}?v=3&{signed.lower()}&w") == f"{place}?v=3&w"
    assert unsigned(f"{place}?{signed.replace('-', '%2D')}") == place


@pytest.mark.parametrize(
    "query",
    [
        "sr=1&expires=2",
        "s=200",
        "tokens=abc&keys=1",
        "token&sig=",
        "k=%FF",
        "k=%ff&k=+&k=%20&&flag&blank=",
        "versionId=3",
        "",
    ],
)
def test_parts_that_identify_a_still_are_kept_exactly(query):
    """Every part of a link that may identify a still stays as it is, to the letter."""
    assert unsigned(f"https://h/a.jpg?{query}") == f"https://h/a.jpg?{query}"


TOKENS = "token key sig signature secret auth Token ke%79".split()
SECRETS = (
    "access_token auth_token api_key apikey x-api-key password jwt Api%5Fkey".split()
)


@pytest.mark.parametrize("name", TOKENS)
def test_token_becomes_a_digest_that_still_tells_stills_apart(name):
    """A parameter that may be a secret or a file's name is not kept, nor ignored."""
    one, same, other = (
        unsigned(f"https://h/get?w=9&{name}={value}&v=1")
        for value in ("s3cret-1", "s3cret-1", "s3cret-2")
    )

    assert "s3cret" not in one
    assert one == same != other
    assert unsigned(one) == one
    assert one.startswith(f"https://h/get?w=9&{name}=~")
    assert one.endswith("&v=1")
    assert Job(image=one, prompt="p").id != Job(image=other, prompt="p").id


@pytest.mark.parametrize("name", SECRETS)
def test_secret_that_selects_nothing_is_removed(name):
    """Access tokens and API keys change nightly; the still is the same."""
    assert unsigned(f"https://h/a.jpg?v=1&{name}=s3cret") == "https://h/a.jpg?v=1"


def test_web_token_in_any_parameter_of_that_kind_is_removed():
    """A store's signed link has a JSON Web Token, made anew each time."""
    link = "https://h/sign/a.jpg?token=eyJhbGciOi.eyJ1cmwiOi.c2ln"

    assert unsigned(link) == "https://h/sign/a.jpg"


def test_key_of_an_object_may_look_like_a_token():
    """In an object's key a ? is an ordinary character."""
    assert unsigned("s3://b/a?token=abc") == "s3://b/a?token=abc"


def test_a_signed_crop_of_a_picture_is_another_picture():
    signed = "x-oss-signature=s&x-oss-credential=k&x-oss-process=image/resize,w_100"

    assert (
        unsigned(f"https://h/a.jpg?{signed}")
        == "https://h/a.jpg?x-oss-process=image/resize,w_100"
    )


def test_a_signed_version_of_an_object_is_another_still():
    signed = "versionId=3&X-Amz-Signature=s"

    assert unsigned(f"https://h/a.jpg?{signed}") == "https://h/a.jpg?versionId=3"


@pytest.mark.parametrize(
    ("uri", "kept"),
    [
        ("https://me:secret@h/a.jpg", "https://h/a.jpg"),
        ("https://secret@h/a.jpg", "https://h/a.jpg"),
        ("HTTPS://me:secret@h/a.jpg", "HTTPS://h/a.jpg"),
        (" https://me:secret@h/a.jpg", " https://h/a.jpg"),
        ("https://me:p@secret@h/a.jpg", "https://h/a.jpg"),
        ("https://me:secret@[::1]:80/a.jpg", "https://[::1]:80/a.jpg"),
        ("https://me:secret@[h/a.jpg", "https://[h/a.jpg"),
        ("https://me:p/secret@h/a.jpg", "https://h/a.jpg"),
        ("https://me:p#secret@h/a.jpg", "https://h/a.jpg"),
        ("https://me:p?secret@h/a.jpg", "https://h/a.jpg"),
        ("s3://key:secret@bucket/a.jpg", "s3://bucket/a.jpg"),
        ("htps://me:secret@h/a.jpg", "htps://h/a.jpg"),
        (
            "zip://a.jpg::https://me:secret@h/z.zip#secret",
            "zip://a.jpg::https://h/z.zip",
        ),
        (
            "simplecache::zip://what?.jpg::https://h/z.zip?X-Amz-Signature=secret&v=1",
            "simplecache::zip://what?.jpg::https://h/z.zip?v=1",
        ),
        ("https://h/a.jpg#access_token=secret", "https://h/a.jpg"),
        ("https://h/a.jpg?v=1#?X-Amz-Signature=secret", "https://h/a.jpg?v=1"),
        ("s3://b/a#1?X-Amz-Signature=secret", "s3://b/a#1"),
        ("s3://b/a?X-Amz-Signature=secret#1", "s3://b/a#1"),
    ],
)
def test_a_secret_in_a_place_is_nobodys_to_keep(uri, kept):
    assert unsigned(uri) == kept


def test_login_name_is_kept_and_password_is_removed():
    """A link keeps its login name, since users have different files, not its password."""
    assert unsigned("sftp://me:secret@h/a.jpg") == "sftp://me@h/a.jpg"
    assert unsigned("ftp://me:p/secret@h/a.jpg") == "ftp://me@h/a.jpg"
    assert unsigned("ftp://:secret@h/a.jpg") == "ftp://h/a.jpg"


@pytest.mark.parametrize(
    "uri",
    [
        "abfss://container@account.dfs.core.windows.net/a.jpg",
        "az://container@account.blob.core.windows.net/a.jpg",
        "oci://bucket@namespace/a.jpg",
        "github://me:stills@main/a.jpg",
        "hf://gpt2@main/a.jpg",
        "zip://a@2x.jpg::s3://b/z.zip",
        "memory://a@2x.jpg",
        "stills/a@2x.jpg",
        "https://h/a@2x.jpg",
        "https://h:8080/a@2x.jpg",
        "s3://arn:aws:s3:eu-west-1:123:accesspoint/stills/a@2x.jpg",
        "s3://b/a#1.jpg",
        "s3://b/what?.jpg",
    ],
)
def test_what_is_part_of_a_name_stays(uri):
    assert unsigned(uri) == uri


@given(HOSTS, PATHS)
def test_a_link_without_a_query_is_its_own_name(host, path):
    uri = f"https://{host}{path}"

    assert unsigned(uri) == uri


@given(places(), places(), st.data())
def test_links_that_differ_only_in_proofs_are_one_still(one, other, data):
    """Two links are one still only if they differ in nothing but their proofs."""
    signed, again = data.draw(proven(one)), data.draw(proven(other))

    assert (unsigned(signed) == unsigned(again)) == (one == other)


@given(places(), st.data())
def test_no_secret_is_left_in_what_is_kept(place, data):
    signed = data.draw(proven(place))

    kept = unsigned(signed)

    assert "s3cret" in signed
    assert "s3cret" not in kept
    assert unsigned(kept) == kept


@given(st.text())
def test_any_text_at_all_has_a_name(text):
    kept = unsigned(text)

    assert unsigned(kept) == kept


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_whatever_only_looks_like_a_uri_has_a_name_too(text):
    kept = unsigned(text)

    assert unsigned(kept) == kept
