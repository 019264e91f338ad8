"""A synthetic checkpoint of the layout that the original publishes, small; of random values."""

import math
from pathlib import Path
from typing import Any

import torch

CONFIG = {
    "vocab_size": 301, "d_model": 64, "d_prompt": 48, "num_diffusion_steps": 100, "num_denoiser_layers": 2,
    "d_state": 16, "d_conv": 4, "expand": 2, "conditioning_type": "adaln", "dropout": 0.1, "use_weight_tying": True,
    "padding_idx": None, "use_simple_mamba": False, "latent_diffusion": False, "d_latent": 64, "use_vae_latent": False,
    "bidirectional": True, "self_conditioning": False, "prediction_type": "x0", "use_head_norm": False,
    "bidir_merge": "sum", "latent_scale": 50.0, "head_type": "linear", "block_ffn": True, "ffn_mult": 4,
    "ffn_type": "swiglu", "ffn_hidden": 96, "use_flow_matching": True,
}  # fmt: skip
NOISE = ("alphas_cumprod", "alphas_cumprod_prev", "betas", "sqrt_alphas_cumprod", "logsnr")
HEADS, TIME, WAVES = 2, 40, 32


def waves(steps: int) -> torch.Tensor:
    """The position encoding of "Attention Is All You Need"."""
    table = torch.zeros(steps, WAVES)
    for step in range(steps):
        for pair in range(0, WAVES, 2):
            angle = step / 10000 ** (pair / WAVES)
            table[step, pair], table[step, pair + 1] = math.sin(angle), math.cos(angle)
    return table


def shapes(config: dict[str, Any], heads: int = HEADS) -> dict[str, tuple[int, ...]]:
    model, prompt, inner = config["d_model"], config["d_prompt"], config["d_model"] * config["expand"]
    wide = inner + 2 * config["d_state"]
    found = {
        "null_cond": (prompt,),
        "token_embed.embedding.weight": (config["vocab_size"], model),
        "prompt_encoder.mlp.0.weight": (2 * model, model), "prompt_encoder.mlp.0.bias": (2 * model,),
        "prompt_encoder.mlp.3.weight": (prompt, 2 * model), "prompt_encoder.mlp.3.bias": (prompt,),
        "timestep_embed.mlp.0.weight": (TIME, WAVES), "timestep_embed.mlp.0.bias": (TIME,),
        "timestep_embed.mlp.2.weight": (TIME, TIME), "timestep_embed.mlp.2.bias": (TIME,),
        "denoiser.time_proj.weight": (prompt, TIME), "denoiser.time_proj.bias": (prompt,),
    }  # fmt: skip
    for number in range(config["num_denoiser_layers"]):
        block, ffn = f"denoiser.blocks.{number}.", config["ffn_hidden"]
        found |= {f"{block}norm.weight": (model,), f"{block}norm2.weight": (model,)}
        for mixer in ("mamba_fwd", "mamba_bwd"):
            found |= {
                f"{block}{mixer}.{name}": shape
                for name, shape in {
                    "dt_bias": (heads,), "A_log": (heads,), "D": (heads,), "norm.weight": (inner,),
                    "in_proj.weight": (inner + wide + heads, model), "out_proj.weight": (model, inner),
                    "conv1d.weight": (wide, 1, config["d_conv"]), "conv1d.bias": (wide,),
                }.items()
            }  # fmt: skip
        found |= {f"{block}ffn.{name}_proj.weight": (ffn, model) for name in ("gate", "up")}
        found |= {f"{block}ffn.down_proj.weight": (model, ffn)}
        modulation = f"denoiser.conditioning.{number}.modulation.1."
        found |= {f"{modulation}weight": (6 * model, prompt), f"{modulation}bias": (6 * model,)}
    return found


def original(*, heads: int = HEADS, **changes: Any) -> dict[str, Any]:
    """A checkpoint; `heads` are those of a mixer, and `changes` keys of its configuration."""
    config = {**CONFIG, **changes}
    generator = torch.Generator().manual_seed(0)
    weights = {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes(config, heads).items()}
    if not config["use_weight_tying"]:
        weights["output_head.projection.weight"] = 0.1 * torch.randn(config["vocab_size"], config["d_model"])
        weights["output_head.projection.bias"] = 0.1 * torch.randn(config["vocab_size"])
    steps = config["num_diffusion_steps"]
    weights |= {"_latent_scale": torch.tensor(50.0), "timestep_embed.position_encoding": waves(steps)}
    weights |= {f"noise_schedule.{name}": torch.linspace(0, 1, steps) for name in NOISE}
    return {"model_state_dict": weights, "config": config, "mask_id": config["vocab_size"] - 1}


def saved(file: Path, checkpoint: dict[str, Any], **how: Any) -> Path:
    torch.save(checkpoint, file, **how)
    return file
