"""Masked diffusion: tokens that are masked are predicted from all others, before and behind them."""

from dimba.trainers.models.masked_diffusion.continuing import likeliest, retraced
from dimba.trainers.models.masked_diffusion.forward import half_masked as logits
from dimba.trainers.models.masked_diffusion.preparing import name_tokens, prepare

__all__ = ["likeliest", "logits", "name_tokens", "prepare", "retraced"]
