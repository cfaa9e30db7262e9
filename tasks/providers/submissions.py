"""A submit's contents: the clip it asks for, and the fields that most providers share."""

from dataclasses import dataclass
from typing import Final, cast

from manifests.catalogue import Route
from manifests.jobs import Job, Resolution
from tasks.providers.errors import MisconfiguredError

KEPT_DAYS: Final = 7
"""The time for which providers are asked to keep a clip; WaveSpeed's default."""

EXAMPLE_STILL: Final = "https://example.com/still.jpg"


@dataclass(frozen=True, slots=True)
class Submission:
    """The clip that a submit asks for, and our own name for the submit."""

    job: Job
    image_url: str
    seed: int
    reference: str = ""


def example(resolution: str, seconds: int) -> Job:
    """Return a job to ask the price of."""
    size = cast("Resolution", resolution)
    return Job(
        image=EXAMPLE_STILL, prompt="slow pan", resolution=size, duration_s=seconds
    )


def clip_fields(route: Route, asked: Submission) -> dict[str, object]:
    """Return the fields of a submit by the names that most providers have for them."""
    job = asked.job
    fields: dict[str, object] = {
        "image": asked.image_url,
        "prompt": job.prompt,
        "resolution": job.resolution,
        "duration": job.duration_s,
        "seed": asked.seed,
    }
    return fields | optional_fields(route, job)


def optional_fields(route: Route, job: Job) -> dict[str, object]:
    """Return the fields of a submit that only some routes take."""
    fields: dict[str, object] = {}
    if job.negative_prompt and route.takes_negative_prompt:
        fields["negative_prompt"] = job.negative_prompt
    if len(route.aspect_ratios) > 1:
        fields["aspect_ratio"] = job.aspect_ratio
    return fields


def frames(route: Route, job: Job, *, least: int = 1, most: int | None) -> int:
    """Return the length of a clip in frames.

    Raises:
        MisconfiguredError: the model makes fewer or more frames only.
    """
    number = job.duration_s * route.fps + 1
    if number < least or (most is not None and number > most):
        limits = f"{route.endpoints[job.resolution]} makes {least} to {most}"
        message = f"{job.duration_s} s are {number} frames, {limits}"
        raise MisconfiguredError(f"{route.name}: {message}")
    return number
