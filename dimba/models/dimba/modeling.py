"""DIMBA as a model of transformers: embeddings, blocks conditioned on t, and the head of a masked language model."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from dimba.models.dimba.configuration import DimbaConfig
from dimba.models.dimba.mixing import active_scan, mix

_LONGEST_PERIOD = 10_000.0


class DimbaRMSNorm(nn.Module):
    """Root-mean-square norm with a weight, computed in float32."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        """The same shape and dtype as `hidden`."""
        wide = hidden.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return self.weight * wide.to(hidden.dtype)


class DimbaConditioning(nn.Module):
    """The condition of all blocks: sinusoids of t through two layers, a projection, and a learned vector."""

    def __init__(self, config: DimbaConfig) -> None:
        super().__init__()
        self.size, self.steps = config.time_dim, config.time_steps
        self.dense_in = nn.Linear(config.time_dim, config.time_width)
        self.dense_out = nn.Linear(config.time_width, config.time_width)
        self.projection = nn.Linear(config.time_width, config.condition_dim)
        self.null_condition = nn.Parameter(torch.zeros(config.condition_dim))

    def forward(self, t: Tensor) -> Tensor:
        """(batch,) in (0, 1] to (batch, condition_dim)."""
        level = (t.float().clamp(0, 1) * (self.steps - 1)).round()
        waves = sinusoids(level, self.size).to(self.null_condition.dtype)
        embedded = self.dense_out(F.silu(self.dense_in(waves)))
        return self.projection(embedded) + self.null_condition


def sinusoids(levels: Tensor, size: int) -> Tensor:
    """(count,) to (count, size): sines and cosines in turn, of ever longer periods."""
    even = torch.arange(0, size, 2, device=levels.device, dtype=torch.float32)
    angles = levels[:, None] * torch.exp(even * (-math.log(_LONGEST_PERIOD) / size))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class DimbaPromptEncoder(nn.Module):
    """Weights of the published model that masked diffusion does not use: kept as they are, and never trained.

    They are no linear layers, so that no adapter and no quantisation takes them for layers that are called.
    """

    def __init__(self, config: DimbaConfig) -> None:
        super().__init__()
        wide = 2 * config.d_model
        self.weight_in, self.bias_in = _frozen(wide, config.d_model), _frozen(wide)
        self.weight_out, self.bias_out = _frozen(config.condition_dim, wide), _frozen(config.condition_dim)

    def train(self, mode: bool = True) -> DimbaPromptEncoder:
        """Stays frozen: loading gives every weight a gradient, which would stay empty and stop data parallelism."""
        self.requires_grad_(False)
        return super().train(mode)


def _frozen(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape), requires_grad=False)


class DimbaMLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: DimbaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.d_model, config.ffn_dim, bias=False)
        self.up_proj = nn.Linear(config.d_model, config.ffn_dim, bias=False)
        self.down_proj = nn.Linear(config.ffn_dim, config.d_model, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """The same shape as `hidden`."""
        return self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


class DimbaLinear(nn.Linear):
    """A linear layer that stays as it is in a quantised model: bitsandbytes replaces plain `nn.Linear` alone."""


class DimbaModulation(DimbaLinear):
    """The condition to six numbers per channel; zero at first, so that a new block changes nothing."""


def _mixer(config: DimbaConfig, number: int) -> Mamba2Mixer:
    """A mixer whose output projection is never quantised, as fused kernels may read its weights."""
    inner = config.d_model * config.expand
    mixer = Mamba2Mixer(config.mixer(), number, initialize_mixer_weights=False)
    mixer.out_proj = DimbaLinear(inner, config.d_model, bias=False)
    return mixer


class DimbaBlock(GradientCheckpointingLayer):
    """Two mixers and SwiGLU, each behind a norm that the condition scales, shifts and gates."""

    def __init__(self, config: DimbaConfig, number: int) -> None:
        super().__init__()
        self.norm1 = DimbaRMSNorm(config.d_model, config.rms_norm_eps)
        self.mixer_forward = _mixer(config, number)
        self.mixer_backward = _mixer(config, number)
        self.norm2 = DimbaRMSNorm(config.d_model, config.rms_norm_eps)
        self.mlp = DimbaMLP(config)
        self.modulation = DimbaModulation(config.condition_dim, 6 * config.d_model)

    def forward(self, hidden: Tensor, condition: Tensor, mask: Tensor | None) -> Tensor:
        """`hidden` (batch, length, d_model), `condition` (batch, condition_dim), `mask` (batch, length) or None."""
        numbers = self.modulation(F.silu(condition)).unsqueeze(1)
        scale1, shift1, gate1, scale2, shift2, gate2 = numbers.chunk(6, dim=-1)
        normed = self.norm1(hidden) * (1 + scale1) + shift1
        hidden = hidden + gate1 * mix(self.mixer_forward, self.mixer_backward, normed, mask)
        normed = self.norm2(hidden) * (1 + scale2) + shift2
        return hidden + gate2 * self.mlp(normed)


class DimbaPreTrainedModel(PreTrainedModel):
    """What transformers needs to know of the family."""

    config_class = DimbaConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DimbaBlock"]

    def scan_note(self) -> str:
        """A line that names what computes the scans on this model's device."""
        return f"the scans of the mixers run in {active_scan(self.device)}"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Mamba2Mixer):
            module.init_mamba2_weights()
            init.kaiming_uniform_(module.conv1d.weight, a=math.sqrt(5))
            init.zeros_(module.conv1d.bias)
        elif isinstance(module, DimbaModulation):
            init.zeros_(module.weight)
        elif isinstance(module, DimbaConditioning):
            init.zeros_(module.null_condition)
        elif isinstance(module, DimbaPromptEncoder):
            for weight in module.parameters():
                init.normal_(weight, std=self.config.initializer_range)


class DimbaModel(DimbaPreTrainedModel):
    """DIMBA without its head: the last hidden states are what the head multiplies."""

    def __init__(self, config: DimbaConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.conditioning = DimbaConditioning(config)
        self.prompt_encoder = DimbaPromptEncoder(config)
        self.layers = nn.ModuleList([DimbaBlock(config, number) for number in range(config.num_layers)])
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The embedding of tokens."""
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replaces the embedding of tokens."""
        self.embed_tokens = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        t: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """The hidden states, (batch, length, d_model); see `DimbaForMaskedLM.forward`."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds is needed")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        condition = self.conditioning(self._time(t, input_ids, attention_mask, inputs_embeds))
        hidden, states = inputs_embeds * self.config.embedding_scale, []
        for layer in self.layers:
            states.append(hidden)
            hidden = layer(hidden, condition, attention_mask)
        states.append(hidden := hidden / self.config.embedding_scale)
        wants_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        output = BaseModelOutput(last_hidden_state=hidden, hidden_states=tuple(states) if wants_states else None)
        as_object = self.config.return_dict if return_dict is None else return_dict
        return output if as_object else output.to_tuple()

    def _time(self, t: Tensor | None, ids: Tensor | None, mask: Tensor | None, embeds: Tensor) -> Tensor:
        """`t` checked, or the share of masked tokens among those that are no padding."""
        if t is None:
            if ids is None:
                raise ValueError("t is needed with inputs_embeds: without tokens, masked ones cannot be counted")
            counted = torch.ones_like(ids) if mask is None else mask.to(ids.dtype)
            masked = (ids == self.config.mask_token_id) * counted
            return (masked.sum(1) / counted.sum(1).clamp(min=1)).clamp(min=1 / self.config.time_steps)
        t = torch.as_tensor(t, dtype=torch.float32, device=embeds.device)
        if t.shape != embeds.shape[:1]:
            raise ValueError(f"t has the shape {tuple(t.shape)}, and a batch of {embeds.shape[0]} needs one per row")
        if t.device.type == "cpu" and not bool(((t > 0) & (t <= 1)).all()):
            raise ValueError(f"t is {t.tolist()}, and must be above 0 and at most 1")
        return t


class DimbaForMaskedLM(DimbaPreTrainedModel):
    """DIMBA with the head that predicts the token of each position, masked or not."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: DimbaConfig) -> None:
        super().__init__(config)
        self.model = DimbaModel(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=not config.tie_word_embeddings)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The embedding of tokens."""
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replaces the embedding of tokens."""
        self.model.embed_tokens = value

    def get_output_embeddings(self) -> nn.Linear:
        """The head."""
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replaces the head."""
        self.lm_head = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        t: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """Logits of all positions, each from the tokens on both of its sides.

        Args:
            input_ids: (batch, length), some of them the mask token.
            t: (batch,) in (0, 1], how much of each row is masked; counted per row if it is absent.
            attention_mask: (batch, length), 0 at padding, on either side.
            labels: (batch, length), -100 where no loss is computed. Not shifted.
            inputs_embeds: (batch, length, d_model) in place of `input_ids`; needs `t`.
            output_hidden_states: Whether the input of every block, and the head's, are returned.
            return_dict: Whether an object is returned, not a tuple.
            kwargs: For the loss.

        Raises:
            ValueError: a shape or value above does not hold.
        """
        output = self.model(input_ids, t, attention_mask, inputs_embeds, output_hidden_states, return_dict=True)
        logits = self.lm_head(output.last_hidden_state)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        result = MaskedLMOutput(loss=loss, logits=logits, hidden_states=output.hidden_states)
        as_object = self.config.return_dict if return_dict is None else return_dict
        return result if as_object else result.to_tuple()
