"""The roots that this machine has opened, by URI, each with its identity.

A root that is away looks like a new one: an unmounted disk is an empty folder, and a wrong
endpoint has an empty bucket of the same name. A batch that took it for new would buy every
clip again.
"""

import logging
from hashlib import sha256
from pathlib import Path

from storage import checksum
from storage.objects import DamagedError, replace_file
from storage.state_folder import state_folder

log = logging.getLogger(__name__)


class KnownRoots:
    """One small file for each URI, in the state folder of this machine."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def path(self, uri: str) -> Path:
        """The file that has the identity of the root at a URI.

        Raises:
            RuntimeError: the user has no home folder.
        """
        folder = (self._folder or state_folder()).expanduser()
        name = sha256(uri.encode()).hexdigest()[:16]
        return folder / "roots" / f"{name}.json"

    def id_of(self, uri: str) -> str | None:
        """The identity of the root that a run on this machine opened at a URI last."""
        try:
            path = self.path(uri)
            fields = checksum.load(path.read_bytes(), str(path))
        except (OSError, RuntimeError, DamagedError):
            return None
        return str(fields["id"]) if fields.get("root") == uri else None

    def remember(self, uri: str, root_id: str) -> None:
        """Note the identity of the root that was opened at a URI."""
        known = self.id_of(uri)
        if known == root_id:
            return
        if known is not None:
            log.warning(
                "root.changed root=%s id=%s an earlier run on this machine found root %s there",
                uri,
                root_id,
                known,
            )
        try:
            replace_file(self.path(uri), checksum.dump({"root": uri, "id": root_id}))
        except (OSError, RuntimeError) as error:
            log.warning(
                "root.not_remembered root=%s if it is away at the next start, this machine takes it for a new one: %s",
                uri,
                error,
            )
