"""The forms of a still in a request: base64, data URL, and the file of a form."""

import base64

from storage.media import Still
from tasks.providers.protocol import Exchange


def as_base64(still: Still) -> str:
    return base64.b64encode(still.content).decode("ascii")


def as_data_url(still: Still) -> str:
    return f"data:{still.media_type};base64,{as_base64(still)}"


def as_file(still: Still) -> tuple[str, bytes, str]:
    return still.filename, still.content, still.media_type


def inline(reference: str) -> Exchange[str]:
    """Return a still that travels in the submit itself, without a request."""
    yield from ()
    return reference
