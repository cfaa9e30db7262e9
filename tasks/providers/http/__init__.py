"""Sends requests to providers; no other package does.

There are two kinds of client, because one kind of request costs money. Submits go through
httpx's own transport, whose exceptions say whether the request was sent. Everything free
(polls, uploads, downloads) goes through the aiohttp transport, which needs a fraction of
the CPU. It reports "never connected" for a request that the server read whole before it
hung up (httpx-aiohttp 0.2.0, measured 2026-11), so submits never use it.
"""

from tasks.providers.http.clients import REQUEST_LIVES_S, Clients, connected
from tasks.providers.http.download import PACE, Pace, download
from tasks.providers.http.endpoint import Endpoint
from tasks.providers.http.exchange import NOT_SENT, ask, submit, upload
from tasks.providers.http.retry import LONGEST_RETRY_AFTER_S, OnFailure, retrying

__all__ = [
    "LONGEST_RETRY_AFTER_S",
    "NOT_SENT",
    "PACE",
    "REQUEST_LIVES_S",
    "Clients",
    "Endpoint",
    "OnFailure",
    "Pace",
    "ask",
    "connected",
    "download",
    "retrying",
    "submit",
    "upload",
]
