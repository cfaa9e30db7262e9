"""A job's id decides what is paid for: the same clip has one id, another clip another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.jobs import SEEDS, Job, unsigned

PLAIN = Job(image="s3://b/a.jpg", prompt="p")
HOSTS = st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True)
PATHS = st.from_regex(r"(/[A-Za-z0-9._~%-]{1,9}){1,4}", fullmatch=True)


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
    ],
)
def test_whatever_changes_the_clip_changes_the_id(other):
    changed = Job(**{"image": "s3://b/a.jpg", "prompt": "p"} | other)

    assert changed.id != PLAIN.id


def test_the_id_is_the_same_in_every_process_and_every_release():
    assert PLAIN.id == Job(image="s3://b/a.jpg", prompt="p").id
    assert PLAIN.id == "19291d3edbeef9eb908223b13cef6200"


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


@pytest.mark.parametrize(
    "proof",
    [
        "X-Amz-Algorithm=A&X-Amz-Credential=k&X-Amz-Date=1&X-Amz-Expires=9&X-Amz-SignedHeaders=h&X-Amz-Signature=s",
        "X-Goog-Algorithm=A&X-Goog-Credential=k&X-Goog-Date=1&X-Goog-Signature=s",
        "Expires=1&Signature=s&Key-Pair-Id=k",
        "AWSAccessKeyId=k&Signature=s&Expires=1",
        "sv=2&st=1&se=2&sr=b&sp=r&sig=s",
    ],
)
def test_a_link_that_is_signed_anew_names_the_same_still(proof):
    assert unsigned(f"https://h/a.jpg?{proof}") == "https://h/a.jpg"
    assert unsigned(f"https://h/a.jpg?v=3&{proof}") == "https://h/a.jpg?v=3"


def test_a_link_keeps_the_names_of_signatures_that_prove_nothing():
    assert (
        unsigned("https://h/a.jpg?sr=1&expires=2") == "https://h/a.jpg?sr=1&expires=2"
    )


def test_a_password_in_a_link_is_nobodys_to_keep():
    assert unsigned("https://me:secret@h/a.jpg") == "https://h/a.jpg"


@given(HOSTS, PATHS)
def test_a_link_without_a_query_is_its_own_name(host, path):
    uri = f"https://{host}{path}"

    assert unsigned(uri) == uri


@given(HOSTS, PATHS, st.text(st.characters(codec="ascii", categories=["L", "N"])))
def test_what_is_unsigned_has_nothing_left_to_take_away(host, path, value):
    once = unsigned(f"https://u:p@{host}{path}?v={value}&X-Amz-Signature=s#f")

    assert unsigned(once) == once
