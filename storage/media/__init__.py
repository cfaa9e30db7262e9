"""Clips, posters and stills: their files, and the checks that they pass.

`clips` publishes an MP4 and then its JSON sidecar; if the sidecar exists, both are whole.
`mp4` checks a clip before it is published: its boxes, its packets and, with `decode`,
every frame. `foreign` turns a video in another container into an MP4. `mp4_tables` refuses tables that state more than the file can hold. `posters`
makes small animated WebPs for the contact sheet; nothing depends on them. `stills` checks
a JPEG or PNG before money is spent, and turns it upright.

`mp4`, `posters` and `stills` work on bytes and do no I/O. They take CPU time (70 to 260 ms
for a clip), so callers run them in a thread.
"""

from storage.media import foreign, mp4, stills
from storage.media.clips import Clips
from storage.media.mp4 import BrokenClipError, Probe
from storage.media.posters import Posters, poster
from storage.media.stills import BadStillError, Still

__all__ = [
    "BadStillError",
    "BrokenClipError",
    "Clips",
    "Posters",
    "Probe",
    "Still",
    "foreign",
    "mp4",
    "poster",
    "stills",
]
