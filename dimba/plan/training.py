"""Bytes of a training step at each moment that may be its worst. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from dimba.host.facts import CheckpointFacts, ModelShape
from dimba.plan import activations
from dimba.plan.activations import FLOAT32, HALF, Adapter, Batch, Precision
from dimba.plan.adapter import copied_parameters
from dimba.plan.adapter_terms import adapter_terms, trains_rows
from dimba.plan.job import ResolvedJob
from dimba.plan.model import MemoryEstimate
from dimba.plan.share import Share, precision_of, training_batch


@dataclass(frozen=True)
class TrainingStep:
    """A forward pass and the way back through it: the last layers keep their activations, the first recompute them."""

    job: ResolvedJob
    checkpoint: CheckpointFacts
    shape: ModelShape
    share: Share

    @cached_property
    def precision(self) -> Precision:
        """Which numbers meet in which type."""
        return precision_of(self.job, self.share.mixed, self.shape)

    @cached_property
    def batch(self) -> Batch:
        """The largest forward pass."""
        return training_batch(self.job, self.share)

    @cached_property
    def adapter(self) -> Adapter:
        """What the adapters of a layer keep."""
        return adapter_terms(self.job, self.checkpoint, self.shape)

    @property
    def accumulated(self) -> bool:
        """Whether gradients of batches before are there already."""
        return self.share.accumulation > 1

    @property
    def recomputed(self) -> int:
        """The first layers, which recompute their activations."""
        return self.share.checkpointing.count(self.shape.layers)

    @property
    def kept(self) -> int:
        """The last layers, which keep their activations."""
        return self.shape.layers - self.recomputed

    @cached_property
    def input(self) -> int:
        """Bytes of a layer's input."""
        return activations.kept_inputs(self.shape, self.batch, self.precision) // self.shape.layers

    @cached_property
    def saved(self) -> int:
        """Bytes that a layer keeps."""
        return activations.saved(self.shape, self.batch, self.precision, self.adapter)

    @property
    def waiting(self) -> int:
        """Bytes of the inputs that wait on the GPU for their layers to be recomputed."""
        return 0 if self.share.checkpointing.offload else self.recomputed * self.input

    @property
    def offloaded(self) -> int:
        """Bytes of the inputs that wait in host memory."""
        return self.recomputed * self.input - self.waiting

    def moments(self, states: MemoryEstimate) -> Iterator[MemoryEstimate]:
        """The states and what is beside them, from the end of the forward pass on."""
        ended = replace(
            states,
            gradients=states.gradients if self.accumulated else 0,
            inputs=self.waiting + self.kept * self.saved,
            mask=activations.mask(self.shape, self.batch),
            copies=self._copies(),
        )
        rows = self.shape.vocabulary * self.shape.hidden * trains_rows(self.job, self.checkpoint)
        head = activations.head(self.shape, self.batch, self.precision) + rows * HALF
        yield replace(ended, peak="the end of the forward pass", head=head)
        if self.adapter.norms:
            yield replace(ended, peak="the norm of a matrix", layer=self.adapter.norms)
        returning = self._returning(ended)
        head = activations.head_backward(self.shape, self.batch, self.precision) + rows * (FLOAT32 + 2 * HALF)
        yield replace(returning, peak="the head's gradients", head=head)
        yield from self._layers(replace(returning, peak="a layer's gradients"), states.gradients)
        if self.precision.trains_embedding:
            embedding = activations.embedding_backward(self.shape, kept=self.accumulated)
            yield replace(states, peak="the embedding's gradients", inputs=self.input, head=embedding)

    def _returning(self, ended: MemoryEstimate) -> MemoryEstimate:
        # Layers that keep their activations hold copies until the backward pass has used them; those that recompute
        # make new ones. A mask that no layer will need again has become numbers.
        copies = ended.copies * self.kept // self.shape.layers
        return replace(ended, copies=copies, mask=ended.mask if self.recomputed else 0)

    def _layers(self, returning: MemoryEstimate, gradients: int) -> Iterator[MemoryEstimate]:
        """The last layer that keeps, the last that recomputes, and the first, at which all `gradients` are there."""
        accumulated, vocabulary = self.accumulated, self._vocabulary
        layer = activations.largest_layer(
            self.shape, self.batch, self.precision, self.adapter, new_gradients=accumulated
        )
        layer += activations.exchanged(self.shape, self.batch, self.precision, self.share.ranks_per_row)
        head = vocabulary if self.shape.tied or not accumulated else 0
        at_layer = replace(returning, layer=layer, head=head)
        if self.kept:
            behind = self.waiting + (self.kept - 1) * self.saved  # its own are in `layer`
            yield replace(at_layer, inputs=behind, copies=returning.copies - returning.copies // self.kept)
        if self.recomputed:
            inputs, made = max(self.waiting, self.input), self._gradients_of_kept(gradients)
            yield replace(at_layer, inputs=inputs, copies=0, gradients=gradients if accumulated else made)
        waiting = vocabulary if self.shape.tied and accumulated else 0
        inputs = self.input if self.recomputed else 0
        yield replace(returning, layer=layer, gradients=gradients, copies=0, inputs=inputs, head=waiting)

    @property
    def _vocabulary(self) -> int:
        """Bytes of the head's gradients; 0 if it is not trained."""
        return self.shape.vocabulary * self.shape.hidden * FLOAT32 * self.precision.trains_head

    def _gradients_of_kept(self, gradients: int) -> int:
        """Bytes of the gradients of the layers that keep, of those of all weights."""
        ends = 1 if self.shape.tied or not self.precision.trains_embedding else 2
        return max(0, gradients - ends * self._vocabulary // self.share.shards) * self.kept // self.shape.layers

    def _copies(self) -> int:
        """Of all matrices that are trained, as the forward pass ends; a sharded model is gathered in that type."""
        if self.share.shards > 1:
            return 0
        if self.precision.trains_base:
            return activations.weight_copies(self.shape, self.precision)
        return HALF * copied_parameters(self.job, self.checkpoint)
