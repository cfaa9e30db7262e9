"""Places: a row's image, resolved against the manifest's own place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.uris import absolute


@pytest.mark.parametrize(
    ("uri", "base", "meant"),
    [
        ("stills/a.jpg", "file:///x/m.parquet", "file:///x/stills/a.jpg"),
        ("stills/a.jpg", "s3://b/in/m.parquet", "s3://b/in/stills/a.jpg"),
        ("a.jpg", "/tmp/m.parquet", "file:///tmp/a.jpg"),
        ("/abs/p.jpg", "s3://b/in/m.parquet", "file:///abs/p.jpg"),
        ("https://h/a.jpg", "s3://b/in/m.parquet", "https://h/a.jpg"),
        ("HTTPS://h/A.jpg", "s3://b/in/m.parquet", "https://h/A.jpg"),
        ("./a%20b.jpg", "https://h/x/m.parquet?sig=1/2", "https://h/x/a%20b.jpg"),
        ("../a.jpg", "https://h/x/y/m.parquet", "https://h/x/a.jpg"),
        ("a.jpg", "https://h", "https://h/a.jpg"),
        ("a.jpg", "memory://m.parquet", "memory://a.jpg"),
        ("a.jpg", "memory://in/m.parquet", "memory://in/a.jpg"),
        ("a.jpg", "zip://in/m.parquet::s3://b/z.zip", "zip://in/a.jpg::s3://b/z.zip"),
        ("zip://a.jpg::s3://b/z.zip", "s3://b/m", "zip://a.jpg::s3://b/z.zip"),
        ("a.jpg", "simplecache::s3://b/in/m.parquet", "simplecache::s3://b/in/a.jpg"),
        ("a?b#c.jpg", "s3://b/in/m.parquet", "s3://b/in/a?b#c.jpg"),
        ("50%20off.png", "s3://b/in/m.parquet", "s3://b/in/50%20off.png"),
        ("50%20off.png", "file:///x/m.parquet", "file:///x/50%2520off.png"),
        ("50%20off.png", "/x/m.parquet", "file:///x/50%2520off.png"),
        ("/x/50%20off.png", "s3://b/m.parquet", "file:///x/50%2520off.png"),
        ("file:///x/50%20off.png", "/x/m.parquet", "file:///x/50%20off.png"),
        ("a.jpg", "https://[2001:db8::1]/m", "https://[2001:db8::1]/a.jpg"),
        ("a.jpg", "s3://b/x::y/m", "s3://b/x::y/a.jpg"),
    ],
)
def test_an_image_is_seen_from_where_its_manifest_is(uri, base, meant):
    assert absolute(uri, base) == meant


@given(st.integers(0, 9))
def test_no_image_climbs_out_of_its_bucket(steps):
    uri = absolute("../" * steps + "a.jpg", "s3://bucket/in/deep/m.parquet")

    assert uri.startswith("s3://bucket/")
    assert ".." not in uri


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_what_is_absolute_stays_as_it_is(name):
    once = absolute(name, "https://host/in/m.parquet")

    assert absolute(once, "s3://elsewhere/m.parquet") == once
