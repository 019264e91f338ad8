"""What the options of an adapter add to the activations of a training step. Pure."""

from dimba.host.facts import CheckpointFacts, ModelShape
from dimba.options.lora_table import covered
from dimba.plan.activations import FLOAT32, HALF, Adapter
from dimba.plan.adapter import adapted_matrices
from dimba.plan.job import ResolvedJob

_ENDS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "lm_head", "embed_out")


def trained_ends(job: ResolvedJob, shape: ModelShape | None) -> tuple[bool, bool]:
    """Whether (the head, the embedding) is trained, in float32; both are if they share their weights."""
    if job.method == "full":
        return True, True
    found = covered(job.lora.modules_to_save, _ENDS)
    head, embedding = bool(set(found) & set(_ENDS[-2:])), bool(set(found) & set(_ENDS[:-2]))
    is_tied = shape is not None and shape.tied
    return head or (is_tied and embedding), embedding or (is_tied and head)


def trains_rows(job: ResolvedJob, checkpoint: CheckpointFacts) -> bool:
    """Whether peft trains some rows of the head: it copies the others with them, and makes a gradient of all."""
    new = checkpoint.tokens.missing_rows if checkpoint.tokens else 0
    is_whole = trained_ends(job, checkpoint.shape)[0]
    return job.method != "full" and not is_whole and bool(job.lora.trainable_tokens or new)


def adapter_terms(job: ResolvedJob, checkpoint: CheckpointFacts, shape: ModelShape) -> Adapter:
    """The matrices with an adapter, on average over the layers; with experts or no adapter as if all had one."""
    lora, inputs = job.lora, checkpoint.linear_inputs
    if job.method == "full" or shape.experts:
        return Adapter(rank=lora.r)
    names = adapted_matrices(lora, checkpoint) & inputs.keys()
    if not names:
        return Adapter(rank=lora.r)
    sides = checkpoint.linear_sides or {}
    # The input of the MLP's last matrix is counted apart.
    others = [size for size in inputs.values() if size != shape.intermediate]
    kept = [inputs[name] for name in names if inputs[name] != shape.intermediate]
    all_inputs = sum(inputs[name] for name in names)
    outputs = sum(sides[name] for name in names) - all_inputs
    largest = max(names, key=inputs.__getitem__)
    return Adapter(
        rank=lora.r,
        matrices=round(len(names) / shape.layers),
        inputs=sum(kept) / max(1, sum(others)),
        down=any(inputs[name] == shape.intermediate for name in names),
        dropped=all_inputs // shape.layers if lora.dropout else 0,
        outputs=outputs // shape.layers if lora.use_dora else 0,
        norms=_norms(inputs[largest], sides[largest] - inputs[largest]) if lora.use_dora else 0,
    )


def _norms(inputs: int, outputs: int) -> int:
    """A unit matrix in both types, and what the adapter makes of it."""
    return inputs**2 * (FLOAT32 + HALF) + inputs * outputs * HALF
