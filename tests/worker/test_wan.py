"""The loaded gives the same bits as the plain pipeline, in this process."""

import hashlib
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.worker,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),
]

TEXTS = ("a slow camera walks", "the walks")


@pytest.fixture(scope="module")
def wan():
    from tasks.worker import wan  # noqa: PLC0415 - torch

    return wan


def asking(seed=1, guidance=3.5, **more):
    from tasks.worker.job_spec import JobSpec, Shape  # noqa: PLC0415

    options = {
        "id": "one",
        "prompt": TEXTS[0],
        "negative_prompt": TEXTS[1],
        "shape": Shape(width=96, height=64, frames=9),
        "fps": 8,
        "seed": seed,
        "steps": 2,
        "cfg_high": guidance,
        "cfg_low": guidance,
        "still": "",
    }
    return JobSpec(**{**options, **more})


def planned(model, **more):
    from tasks.worker.model_protocol import Plan  # noqa: PLC0415

    return Plan(model=str(model), device="cpu", **more)


def made(loaded, spec, still):
    scene = loaded.scene(spec, still)
    frames = loaded.frames(loaded.latents(scene, lambda _: None), spec.shape)
    return hashlib.sha256(frames.rgb).hexdigest()


def plainly(folder, spec, still):
    """The whole pipeline, called as its documentation shows."""
    import torch  # noqa: PLC0415
    from diffusers import WanImageToVideoPipeline  # noqa: PLC0415

    from tasks.worker.wan.pipeline import fitted  # noqa: PLC0415

    pipe = WanImageToVideoPipeline.from_pretrained(folder, local_files_only=True)
    with torch.inference_mode():
        [frames] = pipe(
            image=fitted(still, spec.shape),
            prompt=spec.prompt,
            negative_prompt=spec.negative_prompt,
            height=64,
            width=96,
            num_frames=9,
            num_inference_steps=spec.steps,
            guidance_scale=spec.cfg_high,
            generator=torch.Generator("cpu").manual_seed(spec.seed),
            output_type="np",
        ).frames
    levels = (frames * 255).round().astype("uint8")
    return hashlib.sha256(levels.tobytes()).hexdigest()


@pytest.mark.parametrize("kind", ["a14b", "ti2v5b"])
def test_split_stages_make_the_pipelines_bits(wan, checkpoint, still, kind):
    """Cached prompts and separate decoding give the same bits as the pipeline."""
    folder = checkpoint(kind)
    loaded = wan.load(planned(folder))
    specs = [asking(seed=1), asking(seed=2), asking(seed=1, guidance=1.0)]

    ours = [made(loaded, spec, still) for spec in specs]

    assert ours == [plainly(folder, spec, still) for spec in specs]
    assert len(set(ours)) == 3


def test_nan_output_is_an_error(wan, checkpoint, still):
    """A model whose output is not a number makes no clip."""
    from tasks.worker.model_protocol import NanError  # noqa: PLC0415

    def spoil(pipe):
        pipe.transformer_2.proj_out.weight.data.fill_(float("nan"))

    loaded = wan.load(planned(checkpoint("a14b", spoil)))

    with pytest.raises(NanError, match="not a number"):
        made(loaded, asking(), still)


def test_a_clip_without_a_picture_is_no_clip(wan, checkpoint, still):
    from tasks.worker.model_protocol import BlackError  # noqa: PLC0415

    def blank(pipe):
        for weights in pipe.vae.decoder.parameters():
            weights.data.zero_()

    loaded = wan.load(planned(checkpoint("a14b", blank)))

    with pytest.raises(BlackError, match="alike"):
        made(loaded, asking(), still)


def test_each_expert_has_its_own_lora(wan, a14b, still, tmp_path):
    lora = a_lora(a14b, tmp_path)
    specs = asking(guidance=1.0)
    shas = {
        made(wan.load(planned(a14b, **loras)), specs, still)
        for loras in (
            {},
            {"lora_high": lora},
            {"lora_low": lora},
            {"lora_high": lora, "lora_low": lora},
        )
    }

    assert len(shas) == 4


def a_lora(folder, to) -> Path:
    import torch  # noqa: PLC0415
    from diffusers import WanImageToVideoPipeline, WanTransformer3DModel  # noqa: PLC0415
    from peft import LoraConfig, get_peft_model_state_dict  # noqa: PLC0415

    torch.manual_seed(1)
    expert = WanTransformer3DModel.from_pretrained(folder, subfolder="transformer")
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    expert.add_adapter(LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    layers = get_peft_model_state_dict(expert)
    WanImageToVideoPipeline.save_lora_weights(
        to, transformer_lora_layers=layers, weight_name="lora.safetensors"
    )
    return to / "lora.safetensors"


def test_missing_lora_is_found_before_the_model_loads(wan):
    """A LoRA file that does not exist is reported before the model is loaded."""
    from tasks.worker.model_protocol import WorkerError  # noqa: PLC0415

    with pytest.raises(WorkerError, match="no-lora: no such file"):
        wan.load(planned("nobody/has-this", lora_high=Path("no-lora")))


@pytest.mark.parametrize(
    ("message", "meant"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", "OutOfMemoryError"),
        ("CUDA error: out of memory", "OutOfMemoryError"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling", "OutOfMemoryError"),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "OutOfMemoryError"),
        ("CUDA error: an illegal memory access was encountered", "LostGpuError"),
        ("mat1 and mat2 shapes cannot be multiplied", "ClipError"),
    ],
)
def test_out_of_memory_is_told_from_a_lost_gpu(message, meant):
    """The words of an error distinguish a lack of memory from a lost device."""
    import torch  # noqa: PLC0415

    from tasks.worker.model_protocol import ClipError, LostGpuError  # noqa: PLC0415
    from tasks.worker.wan.errors import working  # noqa: PLC0415

    ends = (ClipError, LostGpuError)
    with pytest.raises(ends) as raised, working(torch.device("cpu")):
        raise RuntimeError(message)

    assert type(raised.value).__name__ == meant


def test_weights_that_are_not_here_are_not_fetched(wan):
    from tasks.worker.model_protocol import WorkerError  # noqa: PLC0415

    with pytest.raises(WorkerError, match="--allow-download"):
        wan.load(planned("nobody/has-this"))
