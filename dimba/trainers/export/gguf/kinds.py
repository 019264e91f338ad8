"""The types of GGUF files, from the most exact to the smallest."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A type: the converter's name for it or the quantiser's number, and its bits per weight, about."""

    name: str
    bits: float
    number: int | None = None  # llama.cpp's LLAMA_FTYPE; None: the converter writes it

    @property
    def label(self) -> str:
        """The name as file names and llama.cpp write it: `Q4_K_M`."""
        return self.name.upper()


_KINDS = (
    Kind(name="f32", bits=32),
    Kind(name="bf16", bits=16),
    Kind(name="f16", bits=16),
    Kind(name="q8_0", bits=8.5, number=7),
    Kind(name="q6_k", bits=6.6, number=18),
    Kind(name="q5_k_m", bits=5.7, number=17),
    Kind(name="q5_k_s", bits=5.6, number=16),
    Kind(name="q5_1", bits=6.0, number=9),
    Kind(name="q5_0", bits=5.5, number=8),
    Kind(name="q4_k_m", bits=4.9, number=15),
    Kind(name="q4_k_s", bits=4.7, number=14),
    Kind(name="q4_1", bits=5.0, number=3),
    Kind(name="q4_0", bits=4.6, number=2),
    Kind(name="q3_k_m", bits=4.0, number=12),
)
KINDS = {kind.name: kind for kind in _KINDS}
