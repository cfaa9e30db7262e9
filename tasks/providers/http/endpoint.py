"""A provider at an address, which a lane's `base_url` may replace."""

from dataclasses import dataclass

import httpx

from storage.source_policy import PRIVATE, SourcePolicy
from storage.sources import USER_AGENT
from tasks.answers import ACCEPTED
from tasks.providers.errors import InDoubtError, MisconfiguredError
from tasks.providers.protocol import ClipHost, Provider


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A provider, and the address that its requests go to."""

    provider: Provider
    base_url: httpx.URL | None = None
    """Replaces the scheme and host of each request, and prefixes its path."""
    user_agent: str = USER_AGENT
    """Sent with each request of the lane, and with the downloads of its clips."""

    @property
    def place(self) -> str:
        """The base URL of its requests, without user, password or query.

        It names the provider's own host if the lane has no `base_url`.
        """
        if self.base_url is None:
            return f"https://{min(self.provider.hosts)}"
        bare = self.base_url.copy_with(userinfo=b"", query=None, fragment=None)
        return str(bare).rstrip("/")

    def addressed(self, request: httpx.Request) -> httpx.Request:
        """Return the request, moved to `base_url`.

        Raises:
            MisconfiguredError: the provider's answer named a foreign host for a request
                that carries the key.
        """
        request.headers.setdefault("user-agent", self.user_agent)
        request.headers.setdefault("accept-encoding", ACCEPTED)
        ours = request.url.host in self.provider.hosts
        if ours and self.base_url is not None:
            request.url = _moved(request.url, self.base_url)
            request.headers["host"] = request.url.netloc.decode("ascii")
        at_base = self.base_url is not None and request.url.host == self.base_url.host
        if "authorization" in request.headers and not (ours or at_base):
            message = f"{self.provider.name}: the key is not for {request.url.host}"
            raise MisconfiguredError(message)
        return request

    def fetching(self, url: str) -> httpx.Request:
        """Return the request for a clip, with the key only if the provider needs it.

        Raises:
            InDoubtError: a provider on the internet links to this machine or its network.
        """
        host = httpx.URL(url).host
        foreign = host not in self.provider.hosts
        if foreign and _is_private(url) and not _is_private(self.place):
            message = f"{self.provider.name}: its link to the clip leads to {host}"
            raise InDoubtError(message)
        if isinstance(self.provider, ClipHost):
            return self.addressed(self.provider.fetch(url))
        return httpx.Request("GET", url, headers={"user-agent": self.user_agent})


def _is_private(url: str) -> bool:
    """Whether the text of a URL names this machine or its network."""
    host = httpx.URL(url).host
    # A name without a dot is local, such as a container's.
    local = not any(mark in host for mark in ".:")
    return local or SourcePolicy().complaint(url) == PRIVATE


def _moved(url: httpx.URL, base: httpx.URL) -> httpx.URL:
    path = base.raw_path.rstrip(b"/") + url.raw_path
    return url.copy_with(
        scheme=base.scheme, host=base.host, port=base.port, raw_path=path
    )
