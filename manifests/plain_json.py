"""JSON of the values that `orjson` does not write by itself."""

from collections.abc import Mapping
from decimal import Decimal
from typing import cast


def plain(value: object) -> object:
    """The `default` of `orjson.dumps`: an amount as its exact digits, a mapping as a dict.

    Raises:
        TypeError: it is neither.
    """
    match value:
        case Decimal():
            return str(value)
        case Mapping():
            return dict(cast("Mapping[str, object]", value))
        case _:
            raise TypeError(f"{value!r} has no JSON")
