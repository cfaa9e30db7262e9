"""GPU workers as Ray actors: one for each GPU that Ray finds in the cluster.

    python on_ray.py models/wan2.2-i2v-a14b shared/nightreel-worker 8

Prints a lane's `base_url` for each, and keeps them until it is interrupted; then they drain.
`shared/` is a folder that all machines see: an actor that Ray starts again elsewhere finds its
jobs and its clips there. Ray gives each actor its own GPU, which is `cuda:0` to it.
"""

import subprocess
import sys
import time

import ray

PORT = 8600


@ray.remote(num_gpus=1, max_restarts=-1)
class Gpu:
    """One `nightreel worker`; it is started again when it ends with a fault."""

    def __init__(self, model: str, state: str, place: int) -> None:
        port = PORT + place
        words = ["--model", model, "--state", f"{state}/{place}", "--port", str(port)]
        # The worker ends with this actor in any case: the next one needs its port.
        words = [*words, "--supervised"]
        self._command = ["nightreel", "worker", "--host", "0.0.0.0", *words]  # noqa: S104 - for the lanes to reach
        self._start()
        self.url = f"http://{ray.util.get_node_ip_address()}:{port}"

    def alive(self) -> str:
        """Its address; asked for again and again."""
        if self._worker.poll() is not None:
            self._start()
        return self.url

    def _start(self) -> None:
        pipe = subprocess.PIPE
        self._worker = subprocess.Popen(self._command, stdin=pipe)  # noqa: S603 - our own words

    def drain(self) -> None:
        self._worker.terminate()
        self._worker.wait()


def main(model: str, state: str, number: int) -> None:
    """Start them, look after them, drain them."""
    gpus = [Gpu.remote(model, state, place) for place in range(number)]
    for url in ray.get([gpu.alive.remote() for gpu in gpus]):
        print(f'base_url = "{url}"')  # noqa: T201
    try:
        while True:
            time.sleep(10)
            ray.get([gpu.alive.remote() for gpu in gpus])
    finally:
        ray.get([gpu.drain.remote() for gpu in gpus])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
