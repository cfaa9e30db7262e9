"""Objects: bytes under keys, below one root URI, on any store.

Other packages import from here: `Objects`, its `RetryPolicy`, and the errors. The modules
behind it, from the outside in:

* `retry` repeats a request while the store fails, for the time that a `RetryPolicy` sets.
* `requests` sends one request with obstore and translates the answer.
* `payloads` gives a body the form that needs little memory: bytes, a mapping, or a path.
* `connect` opens the store that a URI names: file, memory, s3, gs or az.
* `local_store` and `local` are the local disk: every write is synced, and the folder must
  be the one that was opened.
* `errors` is the tree of exceptions, and the translation of each store's own errors.

The package relies only on guarantees that every store gives: a put is complete or
absent, a create refuses a key that exists, and a list shows everything that was put. If a
create answers "exists", the object may be ours, because an earlier answer was lost. So
`Objects` compares the bytes before it raises `ExistsError`.

obstore's own retries are off: they would hide that case. Errors never quote a store's
whole answer, because it may contain keys and signatures.
"""

from storage.objects.client import Objects
from storage.objects.connect import local_path, make_folder
from storage.objects.errors import (
    DamagedError,
    ExistsError,
    FullError,
    LoginError,
    MissingError,
    RefusedError,
    ReplacedError,
    StorageError,
    UnavailableError,
)
from storage.objects.local import replace as replace_file
from storage.objects.requests import Stored
from storage.objects.retry import RetryPolicy

__all__ = [
    "DamagedError",
    "ExistsError",
    "FullError",
    "LoginError",
    "MissingError",
    "Objects",
    "RefusedError",
    "ReplacedError",
    "RetryPolicy",
    "StorageError",
    "Stored",
    "UnavailableError",
    "local_path",
    "make_folder",
    "replace_file",
]
