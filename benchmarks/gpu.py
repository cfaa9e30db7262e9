"""The worker on a GPU: seconds by stage, a step against its floor, the busy share.

    python benchmarks/gpu.py [--size 832x480] [--frames 81] [--steps 4] [--guidance 1]
        [--clips 20] [--attention NAME] [--compile] [--tiny --device cpu]

Needs the extra `gpu`, and no weights: Wan 2.2 I2V-A14B in its full size with random
ones, made on the card (2 x 28.6 GB and activations: 80 GB will do), but for the text
encoder, which is one layer. `--tiny` is the tests' model: it shows that the program runs, not
how fast anything is.

The floor is measured on the same card in the same run: what the matrix products and the
attention of one forward pass take by themselves, at the same shapes and with the fastest
of diffusers' attention backends that is installed. Next to it, the same FLOPs at the rate
of one large product. Then a queue of clips goes through the worker's own store and pipeline,
and its /metrics say how long the GPU was at work.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from io import BytesIO
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from PIL import Image

from tasks.worker.job_spec import parse_form
from tasks.worker.job_store import JobStore
from tasks.worker.model_protocol import Plan
from tasks.worker.wan.loader import model_of, tuned
from tasks.worker.wan.pipeline import Wan
from tasks.worker.worker import Worker
from tests.worker import tiny

BUSY, SLOWER = 0.97, 1.35
"""The targets: the busy share while work was queued, and a step's time over its floor."""
TEXT = 512
BACKENDS = ("native", "_native_flash", "_native_cudnn", "flash", "_flash_3", "sage")
"""diffusers' names; what is not installed, or not for this card, is left out."""


def main() -> None:
    options = _options()
    plan = Plan(
        model="random",
        device=options.device,
        steps=options.steps,
        compiled=options.compile,
        attention=options.attention,
    )
    if options.device != "cpu":
        # Later synchronize calls wait for this card.
        torch.cuda.set_device(options.device)
    with torch.inference_mode():
        pipe = tuned(_pipe(options), plan)
        pipe.set_progress_bar_config(disable=True)
        loaded = Wan(pipe, model_of(pipe, plan), torch.device(options.device))
        spec = _spec(options, loaded, "trial")
        stages, step_s = _stages(pipe, loaded, spec)
        floor = Floor(pipe, loaded.model.tokens(spec.shape)).measured()
    queue = _queue(options, plan, loaded)
    print(
        f"{_card(options)}, torch {torch.__version__}: {options.size}x{options.frames},"
    )
    print(f"{options.steps} steps, {_passes(options)} passes a step")
    for stage, seconds in stages.items():
        print(f"  {stage:28} {seconds:9.3f} s")
    _show_step(step_s, floor, _passes(options))
    _show_queue(queue, options.clips)


def _pipe(options):
    if options.tiny:
        return tiny.pipeline("a14b").to(options.device)
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    pipe = tiny.pipeline("a14b")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(options.device):
            vae = AutoencoderKLWan()
            experts = [WanTransformer3DModel(in_channels=36) for _ in range(2)]
            text = _text_encoder()
    finally:
        torch.set_default_dtype(before)
    for expert in experts:
        _as_loaded(expert)
    pipe.register_modules(
        vae=vae.eval(),
        text_encoder=text,
        transformer=experts[0].eval(),
        transformer_2=experts[1].eval(),
    )
    return pipe.to(options.device)


def _text_encoder():
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(
        vocab_size=128, d_model=4096, d_ff=64, num_layers=1, is_encoder_decoder=False
    )
    return UMT5EncoderModel(config).eval()


def _as_loaded(expert) -> None:
    """Give an expert the dtypes of `from_pretrained`, and an output that stays finite."""
    keep = expert._keep_in_fp32_modules  # noqa: SLF001 - where it says so
    for name, module in expert.named_modules():
        if any(part in keep for part in name.split(".")):
            module.float()
    for name, weights in expert.named_parameters():
        if "scale_shift_table" in name:
            weights.data = weights.data.float()
    expert.proj_out.weight.data.zero_()
    expert.proj_out.bias.data.zero_()


def _spec(options, loaded, name, seed=0):
    form = {
        "prompt": f"a slow pan over clip {seed % 3}",
        "size": options.size,
        "num_frames": str(options.frames),
        "num_inference_steps": str(options.steps),
        "guidance_scale": str(options.guidance),
        "seed": str(seed),
    }
    return parse_form(form, _still(), loaded.model, name)


def _still():
    out = BytesIO()
    Image.effect_noise((1024, 768), 90).convert("RGB").save(out, format="JPEG")
    return out.getvalue()


def _stages(pipe, loaded, spec):
    """Seconds by stage of the third clip, and of a step: the median without the first."""
    still = _still()
    for _ in range(3):
        ends = []
        began = time.perf_counter()
        scene = loaded.scene(spec, still)
        prepared = time.perf_counter()
        latents = loaded.latents(scene, _clocked(ends))
        denoised = time.perf_counter()
        loaded.frames(latents, spec.shape)
        decoded = time.perf_counter()
    encode_s = _encode_s(pipe, spec.shape)
    steps = [later - sooner for sooner, later in pairwise(ends)]
    # On CUDA a step is reported when the next has been sent, and the last one never.
    step_s = statistics.median(steps or [(denoised - prepared - encode_s) / spec.steps])
    return {
        "prepare": prepared - began,
        "denoise": denoised - prepared,
        "of which VAE encode": encode_s,
        "decode": decoded - denoised,
    }, step_s


def _clocked(ends):
    return lambda _: ends.append(time.perf_counter())


def _encode_s(pipe, shape):
    size = (1, 3, shape.frames, shape.height, shape.width)
    video = torch.zeros(size, device=pipe.device, dtype=pipe.vae.dtype)
    return _timed(lambda: pipe.vae.encode(video), times=3)


class Floor:
    """The least time of one forward pass on this card, measured in this run."""

    def __init__(self, pipe, tokens) -> None:
        config = pipe.transformer.config
        self._heads = config.num_attention_heads
        self._a_head = config.attention_head_dim
        self._wide = self._heads * self._a_head
        self._ffn = config.ffn_dim
        self._layers = config.num_layers
        self._tokens = tokens
        self._cpu = pipe.device.type == "cpu"
        dtype = torch.float32 if self._cpu else torch.bfloat16
        self._at = {"device": pipe.device, "dtype": dtype}

    def measured(self):
        backend, seconds = self._fastest()
        at_ceiling = self._flops() / (ceiling := self._ceiling())
        return {
            "backend": backend,
            "s": seconds,
            "at_ceiling": at_ceiling,
            "ceiling": ceiling,
        }

    def _flops(self):
        n, d, ffn = self._tokens, self._wide, self._ffn
        layer = 8 * n * d**2 + 4 * n**2 * d
        layer += 4 * n * d**2 + 4 * TEXT * d**2 + 4 * n * TEXT * d
        return self._layers * (layer + 4 * n * d * ffn)

    def _ceiling(self):
        """FLOP/s of one large product."""
        side = 512 if self._cpu else 8192
        a, b = self._random(side, side), self._random(side, side)
        return 2 * side**3 / _timed(lambda: a @ b, times=20)

    def _fastest(self):
        """The best backend, and the seconds of a forward pass's products and attention."""
        attention = {
            name: seconds
            for name in BACKENDS
            if (seconds := self._attention_s(name)) is not None
        }
        best = min(attention, key=lambda name: attention[name])
        return best, self._layers * (attention[best] + self._products_s())

    def _products_s(self):
        n, d, ffn = self._tokens, self._wide, self._ffn
        x, t = self._random(n, d), self._random(TEXT, d)
        square, up = self._random(d, d), self._random(d, ffn)
        down, hidden = self._random(ffn, d), self._random(n, ffn)
        six = 6 * _timed(lambda: x @ square)
        two = 2 * _timed(lambda: t @ square)
        return six + two + _timed(lambda: x @ up) + _timed(lambda: hidden @ down)

    def _attention_s(self, backend):
        # Tokens before heads, as in diffusers.
        q = self._random(1, self._tokens, self._heads, self._a_head)
        text = self._random(1, TEXT, self._heads, self._a_head)

        def attend(to):
            return dispatch_attention_fn(q, to, to, backend=backend)

        try:
            return _timed(lambda: attend(q)) + _timed(lambda: attend(text))
        except Exception:  # noqa: BLE001 - each backend has its own way to say no
            return None

    def _random(self, *size):
        return torch.randn(*size, **self._at)


def _timed(work, times=7):
    """Median seconds, after one that is not counted."""
    took = []
    for _ in range(times + 1):
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return statistics.median(took[1:])


def _queue(options, plan, loaded):
    """Send clips through the worker as a client does; returns its metrics."""
    with tempfile.TemporaryDirectory() as folder:
        store = JobStore(Path(folder), plan.build, time.time(), boot="")
        worker = Worker(
            plan, store, at_most=options.clips, hang_after_s=600, load_within_s=600
        )
        worker.warm(lambda _: loaded, [f"{options.size}x{options.frames}"])
        began = time.perf_counter()
        still = _still()
        names = [f"clip-{place}" for place in range(options.clips)]
        for seed, name in enumerate(names):
            worker.take(_spec(options, loaded, name, seed), still)
        while store.queued() or any(_open(store, name) for name in names):
            time.sleep(0.05)
        wall = time.perf_counter() - began
        text = worker.metrics.text().decode()
        ended = [store.job(name).status for name in names]
        worker.drain()
        worker.join()
        store.close()
    busy = _metric(text, "gpu_busy_seconds_total")
    starved = _metric(text, "gpu_idle_seconds_with_work_total")
    return {
        "clips": ended.count("completed"),
        "wall": wall,
        "busy": busy / (busy + starved),
        "starved": starved,
    }


def _open(store, name):
    return store.job(name).status in {"queued", "in_progress"}


def _metric(text, name):
    lines = (line.split() for line in text.splitlines())
    full = f"nightreel_worker_{name}"
    return next(float(line[1]) for line in lines if line[0] == full)


def _show_step(step_s, floor, passes):
    floor_s = passes * floor["s"]
    ratio = step_s / floor_s
    print(f"  {'step':28} {step_s:9.3f} s")
    print(f"  {'its products and attention':28} {floor_s:9.3f} s ({floor['backend']})")
    print(f"  {'its FLOPs at the ceiling':28} {passes * floor['at_ceiling']:9.3f} s")
    print(f"  {'ceiling':28} {floor['ceiling'] / 1e12:9.2f} TFLOP/s")
    print(f"  {'step / floor':28} {ratio:9.2f}   {_met(ratio <= SLOWER)} <= {SLOWER}")


def _show_queue(queue, clips):
    busy = queue["busy"]
    print(f"  {'busy share while queued':28} {busy:9.1%}   ", end="")
    print(f"{_met(busy >= BUSY)} >= {BUSY:.0%}")
    print(f"  {'idle with work':28} {queue['starved']:9.2f} s")
    print(f"  {'clips':28} {queue['clips']:9} of {clips}")
    print(f"  {'clips an hour':28} {3600 * queue['clips'] / queue['wall']:9.1f}")


def _passes(options):
    return 2 if options.guidance > 1 else 1


def _card(options):
    cpu = options.device == "cpu"
    return "a CPU" if cpu else torch.cuda.get_device_name(options.device)


def _met(met):
    return "met:   " if met else "MISSED:"


def _options():
    words = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    words.add_argument("--size", default="832x480")
    words.add_argument("--frames", type=int, default=81)
    words.add_argument("--steps", type=int, default=4)
    words.add_argument("--guidance", type=float, default=1.0)
    words.add_argument("--clips", type=int, default=20)
    words.add_argument("--device", default="cuda:0")
    words.add_argument("--attention")
    words.add_argument("--compile", action="store_true")
    words.add_argument("--tiny", action="store_true")
    return words.parse_args()


if __name__ == "__main__":
    main()
