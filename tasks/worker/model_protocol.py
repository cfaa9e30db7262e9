"""The interface of a model: only its implementations import torch.

* ClipError: this clip failed, and the model can make the next
  * OutOfMemoryError, NanError, BlackError, InvalidImageError
* LostGpuError: no clip will be made by this process any more
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from tasks.worker.job_spec import JobSpec, Model, Shape


class WorkerError(Exception):
    """The worker cannot start with these options."""


class ClipError(Exception):
    """A clip failed; `code` tells the client how."""

    code: ClassVar[str] = "worker_error"


class OutOfMemoryError(ClipError):
    code = "out_of_memory"


class NanError(ClipError):
    code = "nan_output"


class BlackError(ClipError):
    code = "black_output"


class InvalidImageError(ClipError):
    code = "invalid_image"


class LostGpuError(Exception):
    """The device no longer answers: only another process can use it."""


class CancelledError(Exception):
    """The job was cancelled."""


Scene = Any
"""A still and a prompt, ready for the device."""
Latents = Any
"""The latents of a clip, on the device."""

OnStep = Callable[[int], None]
"""Called with the number of finished steps. An exception from it ends the clip."""


@dataclass(frozen=True, slots=True)
class Frames:
    """A clip as raw RGB, frame after frame."""

    shape: Shape
    rgb: memoryview = field(repr=False)


class LoadedModel(Protocol):
    """A model on its device.

    `scene`, `latents` and `frames` may run at the same time, each for another clip, and
    none of them twice at the same time. All three raise ClipError and LostGpuError.
    """

    model: Model

    def scene(self, spec: JobSpec, still: bytes) -> Scene: ...
    def latents(self, scene: Scene, on_step: OnStep) -> Latents: ...
    def frames(self, latents: Latents, shape: Shape) -> Frames: ...
    def peak_mb(self) -> float:
        """The peak of memory use since the last call, in MB."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which model to load, where, and how."""

    model: str
    """A folder, or the id of a model in the machine's cache."""
    device: str = "cuda:0"
    steps: int | None = None
    lora_high: Path | None = None
    lora_low: Path | None = None
    compiled: bool = False
    attention: str | None = None
    allow_download: bool = False

    @property
    def name(self) -> str:
        """The name for clients, which is never a path on this machine."""
        return (
            Path(self.model).resolve().name if Path(self.model).exists() else self.model
        )

    @property
    def build(self) -> str:
        """The model and its LoRAs: another build makes another clip of the same job."""
        loras = [lora.name for lora in (self.lora_high, self.lora_low) if lora]
        return "+".join([self.name, *loras])


Load = Callable[[Plan], LoadedModel]
