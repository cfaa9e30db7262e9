"""Translates torch's exceptions to the worker's."""

import re
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from typing import Final

import torch

from tasks.worker.model_protocol import ClipError, LostGpuError, OutOfMemoryError


@contextmanager
def working(device: torch.device) -> Generator[None]:
    """Run on a device, and raise nothing of torch's own.

    Raises:
        OutOfMemoryError: the device's memory does not hold it; it does hold others.
        LostGpuError: the device is of no use to this process any more.
        ClipError: anything else.
    """
    # The current device of streams and events is a property of the thread.
    here = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    try:
        with here, torch.inference_mode():
            yield
    except RuntimeError as exc:
        meant = _meant(exc)
        if isinstance(meant, OutOfMemoryError) and device.type == "cuda":
            torch.cuda.empty_cache()
        raise meant from exc
    except (TypeError, ValueError, IndexError, KeyError) as exc:
        raise ClipError(f"{type(exc).__name__}: {exc}") from exc


NO_MEMORY: Final = re.compile(
    r"can't allocate memory|out of memory|CU\w+_STATUS_ALLOC_FAILED", re.IGNORECASE
)
"""Also raised when a library has no memory for a workspace. The device stays usable."""


def _meant(exc: RuntimeError) -> Exception:
    """The worker's error for one of torch's; some libraries of torch raise plain ones."""
    words = str(exc)
    first = words.split("\n", 1)[0]
    if isinstance(exc, torch.OutOfMemoryError) or NO_MEMORY.search(words):
        return OutOfMemoryError(first)
    lost = isinstance(exc, torch.AcceleratorError)
    if lost or "CUDA error" in words or "CUBLAS_STATUS" in words:
        return LostGpuError(first)
    return ClipError(f"{type(exc).__name__}: {words}")
