"""Loads a model from disk onto its device."""

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import WanImageToVideoPipeline

from tasks.worker.job_spec import Model, Shape
from tasks.worker.model_protocol import ClipError, LostGpuError, Plan, WorkerError
from tasks.worker.wan.errors import working
from tasks.worker.wan.pipeline import Wan


def devices() -> list[str]:
    """The GPUs that this process may use."""
    return [f"cuda:{place}" for place in range(torch.cuda.device_count())]


def load(plan: Plan) -> Wan:
    """Load a model as it was saved, fuse its LoRAs, and put it on its device.

    Raises:
        WorkerError: it is not there, or does not fit.
    """
    diffusers.utils.logging.disable_progress_bar()
    try:
        with working(torch.device(plan.device)):
            pipe = tuned(_loaded(plan), plan)
            return Wan(pipe, model_of(pipe, plan), torch.device(plan.device))
    except (OSError, ValueError, ClipError, LostGpuError) as exc:
        raise WorkerError(f"{plan.model} on {plan.device}: {exc}") from exc


def _loaded(plan: Plan) -> Any:
    for lora in filter(None, (plan.lora_high, plan.lora_low)):
        if (
            not lora.is_file()
        ):  # checked before the model is loaded, which takes minutes
            raise WorkerError(f"{lora}: no such file")
    dtype = torch.float32 if plan.device == "cpu" else torch.bfloat16
    try:
        pipe = WanImageToVideoPipeline.from_pretrained(
            plan.model, dtype=dtype, local_files_only=not plan.allow_download
        )
    except OSError as exc:
        if plan.allow_download:
            raise
        raise WorkerError(
            f"{plan.model} is not on this machine, or not whole: fetch it first, or"
            f" let the worker do so with --allow-download ({exc})"
        ) from exc
    _fuse(pipe, plan.lora_high, "transformer")
    _fuse(pipe, plan.lora_low, "transformer_2")
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(plan.device)


def _fuse(pipe: Any, file: Path | None, expert: str) -> None:
    if file is None:
        return
    if getattr(pipe, expert) is None:
        raise WorkerError(f"{file}: the model has no {expert} to put it into")
    low = {"load_into_transformer_2": True} if expert == "transformer_2" else {}
    pipe.load_lora_weights(
        str(file.parent), weight_name=file.name, adapter_name=expert, **low
    )
    getattr(pipe, expert).fuse_lora()
    getattr(pipe, expert).unload_lora()


def tuned(pipe: Any, plan: Plan) -> Any:
    for expert in filter(None, (pipe.transformer, pipe.transformer_2)):
        if plan.attention is not None:
            expert.set_attention_backend(plan.attention)
        if plan.compiled:
            expert.compile_repeated_blocks(fullgraph=True)
    return pipe


def model_of(pipe: Any, plan: Plan) -> Model:
    experts = 2 if pipe.config.boundary_ratio is not None else 1
    distilled = plan.lora_high is not None or plan.lora_low is not None
    usual = Shape(width=832, height=480, frames=81)
    large = Shape(width=1280, height=704, frames=121)
    guidance = 3.5 if experts == 2 else 5.0
    return Model(
        name=plan.name,
        multiple=pipe.vae_scale_factor_spatial * pipe.transformer.config.patch_size[1],
        stride=pipe.vae_scale_factor_temporal,
        experts=experts,
        shape=usual if experts == 2 else large,
        fps=16 if experts == 2 else 24,
        steps=plan.steps or (40 if experts == 2 else 50),
        guidance=1.0 if distilled else guidance,
    )
