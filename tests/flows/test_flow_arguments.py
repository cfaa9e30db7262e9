"""Flows refuse places that mean something else in the folder that a run works in."""

import pytest

from flows.pause import pause, resume
from flows.prefect_runtime import located
from flows.watch import watch
from manifests.input import ManifestError
from storage.sources import OpeningError
from tasks.batch.request import public

pytestmark = pytest.mark.anyio

BLANK, SPACED, RELATIVE = "is blank", "remove the space", "is relative"


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("", BLANK),
        (" \t", BLANK),
        (" s3://b/r", SPACED),
        ("root", RELATIVE),
        ("./root", RELATIVE),
        ("~/root", RELATIVE),
    ],
)
async def test_flow_refuses_a_root_that_is_blank_or_relative(uri, problem):
    """A blank or relative root is refused with its name, its value and a cure."""
    for call in (
        pause.fn(root=uri),
        resume.fn(root=uri),
        watch.fn(inbox="memory:///inbox", root=uri),
    ):
        with pytest.raises(OpeningError) as refused:
            await call
        assert f"root = {uri!r}" in str(refused.value)
        assert problem in str(refused.value)


@pytest.mark.parametrize("uri", ["/mnt/reel", "file:///mnt/reel", "s3://b/r", "az://c"])
def test_flow_takes_a_uri_or_a_path_from_the_top(uri):
    expected = f"file://{uri}" if uri.startswith("/") else uri

    assert public(uri, "root") == expected


@pytest.mark.parametrize(("uri", "problem"), [(" ", BLANK), (" s3://b/r", SPACED)])
def test_a_path_that_is_blank_is_not_this_folder(uri, problem):
    """A blank path, or a URI after a space, is refused and not resolved."""
    with pytest.raises(OpeningError, match=problem):
        located(uri, "root")


def test_secret_in_a_uri_is_refused():
    """A URI with a signature is refused, and the message does not show it."""
    with pytest.raises(ManifestError) as refused:
        public("https://h.example/m.parquet?X-Amz-Signature=abc", "manifest")
    assert "abc" not in str(refused.value)
