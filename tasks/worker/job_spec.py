"""The clip that a client asks for: read from a form and checked before it is queued."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from storage.media import BadStillError, stills

MOST_SIDE: Final = 2048
MOST_FRAMES: Final = 257
MOST_STEPS: Final = 200
MOST_GUIDANCE: Final = 20.0
MOST_FPS: Final = 60
MOST_SEED: Final = 2**63 - 1
LONGEST_PROMPT: Final = 10_000

_ID: Final = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_SIZE: Final = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")

_FIELDS: Final = frozenset(
    "id prompt negative_prompt size num_frames fps seed num_inference_steps"
    " guidance_scale guidance_scale_2 model".split()
)


class JobSpecError(ValueError):
    """The model cannot make the clip; the message names the field and the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A clip's size and length."""

    width: int
    height: int
    frames: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}x{self.frames}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The loaded model: its name and its limits."""

    name: str
    multiple: int
    """Each side of a clip is a multiple of this, in pixels."""
    stride: int
    """Frames come as a multiple of this, and one more."""
    experts: int
    shape: Shape
    fps: int
    steps: int
    guidance: float

    def tokens(self, shape: Shape) -> int:
        """Return the tokens that the model attends over, which decide a step's duration."""
        a_frame = (shape.width // self.multiple) * (shape.height // self.multiple)
        return a_frame * ((shape.frames - 1) // self.stride + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """A clip that can be made, with nothing left to a default."""

    id: str
    prompt: str
    negative_prompt: str
    shape: Shape
    fps: int
    seed: int
    steps: int
    cfg_high: float
    cfg_low: float
    still: str
    """The SHA-256 of the still's bytes."""

    @property
    def guided(self) -> bool:
        """Whether each step takes two passes through the model, not one."""
        return self.cfg_high > 1

    @property
    def seconds(self) -> float:
        return round(self.shape.frames / self.fps, 3)

    def written(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def read(cls, text: str) -> "JobSpec":
        plain: dict[str, Any] = json.loads(text)
        plain["shape"] = Shape(**plain["shape"])
        return cls(**plain)


def parse_form(
    form: Mapping[str, str], still: bytes | None, model: Model, name: str
) -> JobSpec:
    """Read a form; a job without an id is called `name`.

    Raises:
        JobSpecError: this model cannot make it, or a field is not known here.
    """
    if unknown := sorted(form.keys() - _FIELDS):
        raise JobSpecError(f"{unknown[0]}: no such field; there are {sorted(_FIELDS)}")
    if form.get("model", model.name) != model.name:
        raise JobSpecError(
            f"model {form['model'][:200]!r} is not here: {model.name!r} is"
        )
    called = form.get("id", name)
    if not _ID.fullmatch(called):
        raise JobSpecError(
            f"id {called[:200]!r} is not 1 to 128 of A-Z a-z 0-9 . _ ~ -"
        )
    high = _real(form, "guidance_scale", model.guidance, MOST_GUIDANCE)
    low = _real(form, "guidance_scale_2", high, MOST_GUIDANCE)
    _heeded(high, low, model)
    return JobSpec(
        id=called,
        prompt=_words(form, "prompt"),
        negative_prompt=_words(form, "negative_prompt", ""),
        shape=_shape(form, model),
        fps=_whole(form, "fps", model.fps, (1, MOST_FPS)),
        seed=_whole(form, "seed", _seed(called), (0, MOST_SEED)),
        steps=_whole(form, "num_inference_steps", model.steps, (1, MOST_STEPS)),
        cfg_high=high,
        cfg_low=low,
        still=_still(still),
    )


def shape_of(text: str, model: Model) -> Shape:
    """A shape in words, such as `832x480x81`.

    Raises:
        JobSpecError: it is none, or none that the model can make.
    """
    size, _, frames = text.rpartition("x")
    return _shape({"size": size, "num_frames": frames}, model)


def _heeded(high: float, low: float, model: Model) -> None:
    """Refuse options that the pipeline would silently ignore."""
    if high <= 1 < low:
        raise JobSpecError(
            f"guidance_scale_2 {low:g} goes unheeded where guidance_scale is {high:g}:"
            " there is guidance in both halves or in none"
        )
    if model.experts == 1 and low != high:
        raise JobSpecError(
            f"guidance_scale_2 {low:g}: {model.name} has one expert only"
        )


def _shape(form: Mapping[str, str], model: Model) -> Shape:
    usual = model.shape
    size = form.get("size", f"{usual.width}x{usual.height}")
    match = _SIZE.fullmatch(size)
    if match is None:
        raise JobSpecError(f"size {size[:40]!r} is not WIDTHxHEIGHT, such as 832x480")
    sides = width, height = int(match[1]), int(match[2])
    if any(side % model.multiple or side > MOST_SIDE for side in sides):
        raise JobSpecError(
            f"size {size}: each side is a multiple of {model.multiple} for"
            f" {model.name}, and at most {MOST_SIDE}"
        )
    frames = _whole(form, "num_frames", usual.frames, (5, MOST_FRAMES))
    if frames % model.stride != 1:
        raise JobSpecError(f"num_frames {frames} is not {model.stride}k+1, such as 81")
    return Shape(width=width, height=height, frames=frames)


def _still(content: bytes | None) -> str:
    if content is None:
        raise JobSpecError("input_reference: no file")
    try:
        stills.look(content, name="input_reference", min_px=1)
    except BadStillError as exc:
        raise JobSpecError(str(exc)) from exc
    return hashlib.sha256(content).hexdigest()


def _words(form: Mapping[str, str], field: str, usual: str | None = None) -> str:
    text = form.get(field, usual)
    if text is None:
        raise JobSpecError(f"{field}: not given")
    if len(text) > LONGEST_PROMPT:
        raise JobSpecError(f"{field}: {len(text)} characters, over {LONGEST_PROMPT}")
    return text


def _whole(
    form: Mapping[str, str], field: str, usual: int, within: tuple[int, int]
) -> int:
    text = form.get(field, str(usual))
    number = int(text) if re.fullmatch(r"[0-9]{1,19}", text) else -1
    least, most = within
    if not least <= number <= most:
        raise JobSpecError(
            f"{field} {text[:40]!r} is not a whole number {least} to {most}"
        )
    return number


def _real(form: Mapping[str, str], field: str, usual: float, most: float) -> float:
    text = form.get(field, str(usual))
    number = float(text) if re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,9})?", text) else -1.0
    if not 0 <= number <= most:
        raise JobSpecError(f"{field} {text[:40]!r} is not a number 0 to {most:g}")
    return number


def _seed(name: str) -> int:
    """A seed that the id decides, so that a job begun twice makes the same clip."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
