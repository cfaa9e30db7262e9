"""Caches encoded prompts: each distinct text is encoded once, and kept for a while."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

PROMPTS_MB: Final = 512
"""The size limit of the cached embeddings; one takes 4 MB."""


class Embedding(Protocol):
    """The part of torch's tensors that the cache needs."""

    @property
    def nbytes(self) -> int: ...


E = TypeVar("E", bound=Embedding)


class Prompts(Generic[E]):
    """A cache that drops the least recently used prompts first."""

    def __init__(
        self, encode: Callable[[str], E], most_bytes: int = PROMPTS_MB * 2**20
    ) -> None:
        self._encode = encode
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, E] = OrderedDict()
        self._bytes = 0

    def embedded(self, text: str) -> E:
        if text not in self._kept:
            self._keep(text, self._encode(text))
        self._kept.move_to_end(text)
        return self._kept[text]

    def _keep(self, text: str, embeds: E) -> None:
        self._kept[text] = embeds
        self._bytes += embeds.nbytes
        while self._bytes > self._most_bytes and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes
