"""Column names that were probably meant to be one of ours.

Exports and merges rename and pad names: `Max USD`, `"prompt "`, `prompt_x`, `seed.1`.
"""

import difflib
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

_LIKE: Final = 0.82
"""The similarity from which a name counts as misspelt: `prompt_x` is, `model_id` is not."""


def resembled(name: str, known: Sequence[str]) -> str | None:
    """The known name that this one resembles; None if it is known, or resembles none."""
    if name in known:
        return None
    plain = _plain(name)
    for each in known:
        if plain.replace("_", "") == each.replace("_", ""):
            return each
    return next(iter(difflib.get_close_matches(plain, known, 1, _LIKE)), None)


@lru_cache(maxsize=1024)
def _plain(name: str) -> str:
    """The name without case, width, accents, padding and numbers at its ends."""
    letters = unicodedata.normalize("NFKD", name).casefold()
    base = "".join(one for one in letters if not unicodedata.combining(one))
    return re.sub(r"[\W_]+", "_", base).strip("_0123456789")
