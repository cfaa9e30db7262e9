"""Tiny checkpoints with random weights, in Wan 2.2's two architectures: made in a second."""

import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from transformers import T5TokenizerFast, UMT5Config, UMT5EncoderModel

CHARS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?'\"()-_/"
WORDS = ("the", "a", "camera", "walks", "slow")


def pipeline(kind="a14b", seed=0):
    """`a14b` has two experts; `ti2v5b` one, and no channels for a mask."""
    torch.manual_seed(seed)
    made = _a14b() if kind == "a14b" else _ti2v5b()
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        num_train_timesteps=1000,
        flow_shift=5.0,
    )
    return WanImageToVideoPipeline(
        tokenizer=_tokenizer(),
        text_encoder=_text_encoder(),
        scheduler=scheduler,
        image_encoder=None,
        image_processor=None,
        **made,
    )


def _a14b():
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    return {
        "vae": vae,
        "transformer": _expert(36, 16),
        "transformer_2": _expert(36, 16),
        "boundary_ratio": 0.9,
        "expand_timesteps": False,
    }


def _ti2v5b():
    vae = AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=48,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        is_residual=True,
        patch_size=2,
        in_channels=12,
        out_channels=12,
        scale_factor_spatial=16,
        latents_mean=[0.0] * 48,
        latents_std=[1.0] * 48,
    )
    return {
        "vae": vae,
        "transformer": _expert(48, 48),
        "transformer_2": None,
        "boundary_ratio": None,
        "expand_timesteps": True,
    }


def _expert(channels_in, channels_out):
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels_in,
        out_channels=channels_out,
        text_dim=32,
        freq_dim=256,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        image_dim=None,
        added_kv_proj_dim=None,
        rope_max_seq_len=1024,
    )


def _text_encoder():
    config = UMT5Config(
        vocab_size=128,
        d_model=32,
        d_kv=8,
        d_ff=37,
        num_layers=2,
        num_heads=4,
        is_encoder_decoder=False,
        use_cache=False,
    )
    return UMT5EncoderModel(config).eval()


def _tokenizer():
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    vocab += [(char, -4.0) for char in CHARS]
    vocab += [("\u2581" + word, -3.0) for word in WORDS]
    return T5TokenizerFast(vocab=vocab, extra_ids=0, model_max_length=512)
