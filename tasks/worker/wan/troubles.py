"""What torch raises, in the worker's words."""

from collections.abc import Generator
from contextlib import contextmanager, nullcontext

import torch

from tasks.worker.studio import LostGpuError, OutOfMemoryError, StudioError


@contextmanager
def working(device: torch.device) -> Generator[None]:
    """Run on a device, and raise nothing of torch's own.

    Raises:
        OutOfMemoryError: the device's memory does not hold it; it does hold others.
        LostGpuError: the device is of no use to this process any more.
        StudioError: anything else.
    """
    # Which device is meant by "the current one", a stream or an event, is the thread's.
    here = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    try:
        with here, torch.inference_mode():
            yield
    except torch.OutOfMemoryError as exc:
        if device.type == "cuda":
            torch.cuda.empty_cache()
        raise OutOfMemoryError(str(exc).split("\n", 1)[0]) from exc
    except torch.AcceleratorError as exc:
        raise LostGpuError(str(exc).split("\n", 1)[0]) from exc
    except RuntimeError as exc:
        raise _meant(exc) from exc
    except (TypeError, ValueError, IndexError, KeyError) as exc:
        raise StudioError(f"{type(exc).__name__}: {exc}") from exc


def _meant(exc: RuntimeError) -> Exception:
    """Not all of torch's libraries raise its own errors."""
    words = str(exc)
    if "can't allocate memory" in words or "out of memory" in words:
        return OutOfMemoryError(words.split("\n", 1)[0])
    if "CUDA error" in words or "CUBLAS_STATUS" in words:
        return LostGpuError(words.split("\n", 1)[0])
    return StudioError(f"{type(exc).__name__}: {words}")
