"""The parts that all emulated APIs use together, and the stills and clips of predictions."""

from dataclasses import dataclass, field

from starlette.responses import Response

from tasks.emulator.clips import MOVES, ClipFormat, Clips
from tasks.emulator.predictions import Prediction, Stage
from tasks.emulator.refusals import NotFoundError
from tasks.emulator.state import State
from tasks.emulator.uploads import Still, Stills, UnreadableStillError


@dataclass(frozen=True, slots=True)
class Shared:
    """One for all emulated APIs of an emulator."""

    state: State
    stills: Stills
    clips: Clips
    pages: dict[str, Response] = field(default_factory=dict[str, Response])
    """Answers of a proxy in front of the provider, by the kind of request."""

    async def still(self, prediction: Prediction) -> Still | None:
        """Return a prediction's still; None if it is unreadable.

        Nothing runs in the background, so a poll decodes the still; a client sees no
        difference.
        """
        if prediction.still is None:
            try:
                prediction.still = await self.stills.load(prediction.spec.image)
            except UnreadableStillError:
                prediction.stage = Stage.UNREADABLE
        return prediction.still

    async def clip(self, prediction: Prediction) -> bytes:
        """Return the clip's bytes. Raises NotFoundError."""
        still = await self.still(prediction)
        if still is None:
            raise NotFoundError("no such clip")
        spec = prediction.spec
        form = ClipFormat(
            resolution=spec.resolution,
            aspect_ratio=spec.aspect_ratio,
            frames=spec.frames,
            fps=spec.fps,
            move=prediction.seed % MOVES,
        )
        return await self.clips.clip(still, form)
