"""Makes frames from a still and a prompt, in three stages that overlap.

Denoising uses the pipeline and its VAE alone. Decoding uses a second VAE, on a second CUDA
stream. `AutoencoderKLWan` keeps a cache in the object: with one object, an encode beside a
decode made 7 of 12 clips silently wrong. With two objects, none were wrong.
"""

import copy
import io
import resource
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final

import torch
from PIL import Image, ImageOps

from storage.media import BadStillError, stills
from tasks.worker.job_spec import JobSpec, Model, Shape
from tasks.worker.model_protocol import (
    BlackError,
    Frames,
    InvalidImageError,
    NanError,
    OnStep,
)
from tasks.worker.prompt_cache import Prompts
from tasks.worker.wan.errors import working

LONGEST_PROMPT: Final = 512
DARK: Final = 24
"""A colour value of 255: a frame is black if almost no pixel has a higher one."""
DARK_SHARE: Final = 0.98


@dataclass(frozen=True, slots=True)
class _Scene:
    spec: JobSpec
    image: Image.Image
    prompt: torch.Tensor
    negative: torch.Tensor | None


class Wan:
    """A LoadedModel; its docstring says which methods may run at the same time."""

    def __init__(self, pipe: Any, model: Model, device: torch.device) -> None:
        self.model = model
        self._prompts = Prompts(self._encoded)
        self._pipe = pipe
        self._device = device
        self._decoder = copy.deepcopy(pipe.vae)
        cuda = device.type == "cuda"
        self._aside = torch.cuda.Stream(device) if cuda else None

    def scene(self, spec: JobSpec, still: bytes) -> _Scene:
        with working(self._device):
            negative = spec.negative_prompt if spec.guided else None
            return _Scene(
                spec,
                fitted(still, spec.shape),
                self._prompts.embedded(spec.prompt),
                None if negative is None else self._prompts.embedded(negative),
            )

    def latents(self, scene: _Scene, on_step: OnStep) -> torch.Tensor:
        spec = scene.spec
        experts = {"guidance_scale_2": spec.cfg_low} if self.model.experts == 2 else {}
        with working(self._device):
            [latents] = self._pipe(
                image=scene.image,
                prompt_embeds=scene.prompt,
                negative_prompt_embeds=scene.negative,
                height=spec.shape.height,
                width=spec.shape.width,
                num_frames=spec.shape.frames,
                num_inference_steps=spec.steps,
                guidance_scale=spec.cfg_high,
                generator=torch.Generator("cpu").manual_seed(spec.seed),
                callback_on_step_end=_Steps(on_step, self._device),
                output_type="latent",
                return_dict=False,
                **experts,
            )
            # This waits for the device, too: after it, another stream may read them.
            if not bool(torch.isfinite(latents).all()):
                raise NanError("the model's output is not a number")
            return latents

    def frames(self, latents: torch.Tensor, shape: Shape) -> Frames:
        aside = nullcontext() if self._aside is None else torch.cuda.stream(self._aside)
        with working(self._device), aside:
            pixels = self._pixels(latents)
            _look(pixels)
            rgb = pixels.cpu().numpy()
        return Frames(shape, memoryview(rgb).cast("B"))

    def peak_mb(self) -> float:
        if self._device.type != "cuda":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        peak = torch.cuda.max_memory_allocated(self._device) / 2**20
        torch.cuda.reset_peak_memory_stats(self._device)
        return round(peak, 1)

    def _encoded(self, text: str) -> torch.Tensor:
        embeds, _ = self._pipe.encode_prompt(
            text,
            do_classifier_free_guidance=False,
            max_sequence_length=LONGEST_PROMPT,
        )
        return embeds

    def _pixels(self, latents: torch.Tensor) -> torch.Tensor:
        """Frames as the pipeline itself would decode them: uint8, T x H x W x 3."""
        vae = self._decoder
        latents = latents.to(vae.dtype)
        whole = (1, vae.config.z_dim, 1, 1, 1)
        mean = torch.tensor(vae.config.latents_mean).view(whole).to(latents)
        scale = 1.0 / torch.tensor(vae.config.latents_std).view(whole).to(latents)
        [video] = vae.decode(latents / scale + mean, return_dict=False)
        if not bool(torch.isfinite(video).all()):
            raise NanError("the decoder's output is not a number")
        levels = (video[0] * 0.5 + 0.5).clamp(0, 1).float()
        return (levels * 255).round().to(torch.uint8).permute(1, 2, 3, 0).contiguous()


class _Steps:
    """Reports steps that the device has finished, not those that were sent to it.

    On CUDA the host runs ahead. At the end of a step it waits for the one before, so the
    device always has one more to do.
    """

    def __init__(self, on_step: OnStep, device: torch.device) -> None:
        self._on_step = on_step
        self._cuda = device.type == "cuda"
        self._sent: list[torch.cuda.Event] = []

    def __call__(
        self, _pipe: Any, step: int, _t: Any, _tensors: dict[str, Any]
    ) -> dict[str, Any]:
        if self._cuda:
            event = torch.cuda.Event(blocking=True)
            event.record()
            self._sent.append(event)
            if step == 0:
                return {}
            self._sent.pop(0).synchronize()
            self._on_step(step)
        else:
            self._on_step(step + 1)
        return {}


def fitted(still: bytes, shape: Shape) -> Image.Image:
    """The still, upright and cropped around its centre; the pipeline would stretch it."""
    try:
        upright = stills.look(still, name="input_reference", min_px=1).content
    except BadStillError as exc:
        raise InvalidImageError(str(exc)) from exc
    image = Image.open(io.BytesIO(upright)).convert("RGB")
    return ImageOps.fit(image, (shape.width, shape.height), Image.Resampling.LANCZOS)


def _look(pixels: torch.Tensor) -> None:
    """Refuse a clip that shows nothing.

    Raises:
        BlackError: every frame is black, or all pixels are equal.
    """
    brightest = pixels.amax(dim=3)
    dark = (brightest < DARK).float().mean(dim=(1, 2))
    if bool((dark > DARK_SHARE).all()):
        raise BlackError("every frame is black")
    if int(pixels.max()) - int(pixels.min()) <= 1:
        raise BlackError("every pixel of every frame is alike")
