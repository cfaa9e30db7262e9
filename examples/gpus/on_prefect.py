"""GPU workers as flow runs of a Prefect work pool: one run a machine, all of its GPUs in it.

On each machine with GPUs, in the environment that has `nightreel[gpu]`:

    prefect worker start --pool gpus --type process --limit 1

Once, from anywhere:

    python on_prefect.py deploy gpus        # names the pool
    prefect deployment run workers/gpus     # once for each machine

A run that is cancelled drains its workers. Its lanes are the addresses in its logs.
"""

import subprocess
import sys
from pathlib import Path

from prefect import flow


@flow(name="workers", retries=10, retry_delay_seconds=60, log_prints=True)
def workers(model: str, state: str, port: int = 8600) -> None:
    """Serve a model on every GPU of this machine until cancelled."""
    words = ["--model", model, "--state", state, "--port", str(port)]
    print(f"lanes: http://this-machine:{port} and on, one for each GPU")  # noqa: T201
    command = ["nightreel", "worker", "--all", "--host", "0.0.0.0", *words]  # noqa: S104 - for the lanes to reach
    with subprocess.Popen(command) as supervisor:  # noqa: S603 - our own words
        try:
            if code := supervisor.wait():
                raise RuntimeError(f"the workers ended with {code}")
        finally:
            supervisor.terminate()


if __name__ == "__main__":
    workers.from_source(
        source=str(Path(__file__).parent), entrypoint="on_prefect.py:workers"
    ).deploy(
        name="gpus",
        work_pool_name=sys.argv[-1],
        parameters={"model": "models/wan2.2-i2v-a14b", "state": "nightreel-worker"},
    )
