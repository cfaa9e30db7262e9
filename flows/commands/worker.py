"""The command `worker`: serves an open model on your own GPU, behind `/v1/videos`."""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from flows.commands.terminal import tell
from tasks.batch.summary import ExitCode

if TYPE_CHECKING:
    from tasks.worker.model_protocol import LoadedModel, Plan
    from tasks.worker.server import Service

KEY: Final = "NIGHTREEL_WORKER_KEY"
LOOPBACK: Final = "127.0.0.1"

_NEEDED: Final = ("torch", "diffusers", "transformers", "ftfy")
_PROGRAM: Final = "from flows.commands.main import main; main()"


def worker(  # noqa: PLR0913 - each is a knob
    *,
    model: Annotated[
        str,
        typer.Option(
            help="A folder in diffusers' layout, or the id of a model in the cache."
        ),
    ],
    device: Annotated[
        str,
        typer.Option(
            help="The device, or several, separated by commas: one process each."
        ),
    ] = "cuda:0",
    on_all: Annotated[
        bool, typer.Option("--all", help="Start one process for each visible GPU.")
    ] = False,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = LOOPBACK,
    port: Annotated[
        int,
        typer.Option(
            min=0,
            max=65535,
            help="The port of the first process; the others use the next ones.",
        ),
    ] = 8600,
    state: Annotated[
        Path, typer.Option(help="The folder that keeps jobs and clips over restarts.")
    ] = Path("nightreel-worker"),
    queue: Annotated[
        int,
        typer.Option(
            min=1, help="The jobs that may wait; further ones are answered 503."
        ),
    ] = 16,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=200,
            help="The steps of a job that does not set them. Default: the model's.",
        ),
    ] = None,
    lora_high: Annotated[
        Path | None, typer.Option(help="A LoRA to fuse into the high-noise expert.")
    ] = None,
    lora_low: Annotated[
        Path | None, typer.Option(help="A LoRA to fuse into the low-noise expert.")
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile", help="Use torch.compile; the warm-up takes minutes longer."
        ),
    ] = False,
    attention: Annotated[
        str | None,
        typer.Option(help="The attention backend of diffusers: flash, sage, ..."),
    ] = None,
    shapes: Annotated[
        str,
        typer.Option(help="Shapes to run before the first job: 832x480x81,480x832x81."),
    ] = "",
    keep_hours: Annotated[
        float, typer.Option(min=0, help="How long a fetched clip is kept.")
    ] = 24.0,
    hang_after: Annotated[
        float,
        typer.Option(
            min=1,
            help="The seconds allowed for a step, until three of its kind are known.",
        ),
    ] = 900.0,
    load_within: Annotated[
        float,
        typer.Option(
            min=1,
            help="The seconds allowed for loading the model; no limit with --allow-download.",
        ),
    ] = 3600.0,
    allow_download: Annotated[
        bool,
        typer.Option(
            "--allow-download", help="Download weights that are not in the cache."
        ),
    ] = False,
    supervised: Annotated[
        bool, typer.Option("--supervised", help="Exit when standard input closes.")
    ] = False,
) -> None:
    """Serve an open model on your own GPU. Needs the extra `gpu`."""
    if not allow_download:
        # Read by huggingface_hub as it is imported.
        os.environ["HF_HUB_OFFLINE"] = "1"
    _require_packages()
    devices = _devices(device, on_all=on_all)
    if on_all or len(devices) > 1:
        raise typer.Exit(_supervised(devices, port, state))
    # No other command needs a server, or a model.
    from tasks.worker.model_protocol import Plan  # noqa: PLC0415
    from tasks.worker.server import Service  # noqa: PLC0415

    plan = Plan(
        model=model,
        device=devices[0],
        steps=steps,
        lora_high=lora_high,
        lora_low=lora_low,
        compiled=compiled,
        attention=attention,
        allow_download=allow_download,
    )
    service = Service(
        host=host,
        port=port,
        state=state,
        queue=queue,
        shapes=[shape.strip() for shape in shapes.split(",") if shape],
        keep_s=keep_hours * 3600,
        hang_after_s=hang_after,
        load_within_s=load_within,
        # From the environment, so that no list of processes shows it.
        key=os.environ.get(KEY) or None,
        supervised=supervised,
    )
    _serve(plan, service)


def _require_packages() -> None:
    if absent := [name for name in _NEEDED if find_spec(name) is None]:
        raise typer.BadParameter(f"no {absent[0]}: pip install 'nightreel[gpu]'")


def _serve(plan: "Plan", service: "Service") -> None:
    """Serve until the process is stopped; exit with a message if it cannot start."""
    from tasks.worker import server  # noqa: PLC0415
    from tasks.worker.job_store import JobStoreError  # noqa: PLC0415
    from tasks.worker.model_protocol import WorkerError  # noqa: PLC0415

    try:
        server.serve(plan, service, _load, lambda url: tell(f"{plan.name}: {url}"))
    except (WorkerError, JobStoreError, OSError) as exc:
        tell(str(exc), "red")
        raise typer.Exit(ExitCode.BAD_INPUT) from exc


def _load(plan: "Plan") -> "LoadedModel":
    """Load the model. Torch takes ten seconds to import; the server is up before that."""
    from tasks.worker import wan  # noqa: PLC0415

    return wan.load(plan)


def _devices(device: str, *, on_all: bool) -> list[str]:
    if not on_all:
        return [name.strip() for name in device.split(",")]
    from tasks.worker import wan  # noqa: PLC0415 - torch counts them

    devices = wan.devices()
    if not devices:
        raise typer.BadParameter("--all: no GPU is visible to torch")
    return devices


def _supervised(devices: Sequence[str], port: int, state: Path) -> int:
    from tasks.worker.supervisor import supervise  # noqa: PLC0415 - only here

    # If an option is given twice, the second one counts.
    words = [word for word in sys.argv[1:] if word != "--all"]
    return supervise(
        [
            [
                *(sys.executable, "-P", "-c", _PROGRAM, *words),
                *("--device", device),
                *("--port", str(port + place if port else 0)),
                *("--state", str(state / str(place))),
                "--supervised",
            ]
            for place, device in enumerate(devices)
        ]
    )
