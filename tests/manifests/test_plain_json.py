from decimal import Decimal
from types import MappingProxyType

import orjson
import pytest

from manifests.plain_json import plain


def test_amount_keeps_all_its_digits():
    amount = Decimal("0.1000000000000000000000000001")

    written = orjson.dumps({"usd": amount}, default=plain)

    assert Decimal(orjson.loads(written)["usd"]) == amount


def test_read_only_mapping_is_an_object():
    written = orjson.dumps(MappingProxyType({"poll": "https://a"}), default=plain)

    assert written == b'{"poll":"https://a"}'


def test_other_value_is_refused():
    """A value without a JSON form is not stored as whatever its text is."""
    with pytest.raises(TypeError):
        orjson.dumps({"usd": object()}, default=plain)
