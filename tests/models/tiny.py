"""A small DIMBA whose every weight matters: gates and modulations are not at their initial zeros."""

import torch

from dimba.models.dimba import DimbaConfig, DimbaForMaskedLM

SIZES = {"vocab_size": 97, "d_model": 64, "num_layers": 2, "d_state": 16, "headdim": 32, "ffn_dim": 96}


def tiny_config(**changes: object) -> DimbaConfig:
    return DimbaConfig(**{**SIZES, "condition_dim": 48, "time_dim": 32, "time_width": 40, **changes})


def tiny_dimba(**changes: object) -> DimbaForMaskedLM:
    torch.manual_seed(0)
    model = DimbaForMaskedLM(tiny_config(**changes)).eval()
    for name, weight in model.named_parameters():
        if "modulation" in name or "null_condition" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return model
