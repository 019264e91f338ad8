"""A GGUF file as llama.cpp itself runs it."""

import ctypes
import os
import re
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from dimba.common.errors import BadInput
from dimba.trainers.export.gguf.library import bindings

_CHUNK = 256  # tokens whose logits llama.cpp holds at once: a vocabulary of 150,000 is 150 MB of them
_TINY = 64 << 20  # bytes: the weights of a layer are multiplied in less time than threads take to meet
_F32 = 0  # the type of the cache: its default, float16, would be a difference of its own
_ERROR = 4
_WHERE = re.compile(r"^(?:[\w:]+: |error loading model: )+")  # in front of the reason
_LAST: deque[str] = deque(maxlen=8)
_LOG: Any = None  # llama.cpp keeps the pointer: it must not be collected


class LlamaModel:
    """A GGUF file, loaded by llama.cpp on the CPU; `vocabulary_only` leaves the weights out.

    Raises:
        BadInput: llama.cpp cannot load the file.
        HostCannot: llama.cpp is not here.
    """

    def __init__(self, file: Path, *, vocabulary_only: bool = False) -> None:
        self._model: Any = None
        self._running: Any = None
        self._room = self._place = 0
        self._threads = _threads_for(file)
        self._c = bindings()
        _quiet(self._c)
        parameters = self._c.llama_model_default_params()
        parameters.n_gpu_layers, parameters.vocab_only = 0, vocabulary_only
        parameters.use_extra_bufts = False  # repacked weights are multiplied in another order
        self._model = self._c.llama_model_load_from_file(str(file).encode(), parameters) if file.is_file() else None
        if not self._model:
            raise BadInput(f"llama.cpp cannot load it{_because()}", "export it again", file=file)
        self._vocabulary = self._c.llama_model_get_vocab(self._model)

    @property
    def context(self) -> int:
        """The longest context in tokens that the model was trained for."""
        return int(self._c.llama_model_n_ctx_train(self._model))

    @property
    def vocabulary(self) -> int:
        """The number of tokens."""
        return int(self._c.llama_vocab_n_tokens(self._vocabulary))

    def logits(self, ids: Sequence[int]) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """The logits after each of `ids`: float32, of shape (tokens, vocabulary)."""
        context = self._context_for(len(ids))
        self._c.llama_memory_clear(self._c.llama_get_memory(context), True)
        result = np.empty((len(ids), self.vocabulary), dtype=np.float32)
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            self._decode(context, chunk, start)
            pointer = self._c.llama_get_logits(context)
            result[start : start + len(chunk)] = np.ctypeslib.as_array(pointer, (len(chunk), self.vocabulary))
        return result

    def begin(self, ids: Sequence[int], room: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """The logits after the last of `ids`, which up to `room` further tokens may follow."""
        context = self._context_for(len(ids) + room)
        self._c.llama_memory_clear(self._c.llama_get_memory(context), True)
        for start in range(0, len(ids), _CHUNK):
            self._decode(context, ids[start : start + _CHUNK], start, last_only=True)
        self._place = len(ids)
        return self._last_logits()

    def follow(self, token: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """The logits after one more token."""
        self._decode(self._running, [token], self._place)
        self._place += 1
        return self._last_logits()

    def _last_logits(self) -> "np.ndarray[Any, np.dtype[np.float32]]":
        pointer = self._c.llama_get_logits_ith(self._running, -1)
        return np.array(np.ctypeslib.as_array(pointer, (self.vocabulary,)))

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """The tokens of `text`, in which special tokens are recognised; `special` adds those of the beginning."""
        data = text.encode()
        size = len(data) + 8
        tokens = (ctypes.c_int32 * size)()
        count = self._c.llama_tokenize(self._vocabulary, data, len(data), tokens, size, special, True)
        assert count >= 0, "no text has more tokens than bytes"
        return list(tokens[:count])

    def end_tokens(self) -> set[int]:
        """The tokens after which llama.cpp stops generating."""
        return {token for token in range(self.vocabulary) if self._c.llama_vocab_is_eog(self._vocabulary, token)}

    def chat_template(self) -> str:
        """The chat template in the file; empty if it has none."""
        found = self._c.llama_model_chat_template(self._model, None)
        return found.decode() if found else ""

    def close(self) -> None:
        """Frees the model."""
        if self._running:
            self._c.llama_free(self._running)
        if self._model:
            self._c.llama_model_free(self._model)
        self._running = self._model = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _context_for(self, length: int) -> Any:
        if length > self._room:
            if self._running:
                self._c.llama_free(self._running)
            self._room = -(-length // 256) * 256
            self._running = self._c.llama_init_from_model(self._model, self._parameters())
            if not self._running:
                raise BadInput(f"llama.cpp cannot run it{_because()}", "export it with a smaller context, or f16")
        return self._running

    def _parameters(self) -> Any:
        parameters = self._c.llama_context_default_params()
        parameters.n_threads = parameters.n_threads_batch = self._threads
        parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = self._room, _CHUNK, _CHUNK
        parameters.type_k = parameters.type_v = _F32
        parameters.flash_attn_type = 0
        parameters.swa_full = True
        return parameters

    def _decode(self, context: Any, ids: Sequence[int], start: int, *, last_only: bool = False) -> None:
        batch = self._c.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for index, token in enumerate(ids):
            batch.token[index], batch.pos[index] = int(token), start + index
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
            batch.logits[index] = not last_only or index == len(ids) - 1
        status = self._c.llama_decode(context, batch)
        self._c.llama_batch_free(batch)
        if status:
            raise BadInput(f"llama.cpp cannot run these tokens{_because()}", "export the model again")


def _threads_for(file: Path) -> int:
    """As many as torch uses, and one for a tiny file.

    llama.cpp's threads wait for each other busily: more than free cores take hundreds of times longer.
    """
    if not file.is_file() or file.stat().st_size < _TINY:
        return 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else len(os.sched_getaffinity(0))


def _quiet(library: Any) -> None:
    global _LOG  # noqa: PLW0603  # one callback per process
    _LAST.clear()
    if _LOG is None:
        _LOG = library.llama_log_callback(_keep)
        library.llama_log_set(_LOG, None)
        library.llama_backend_init()


def _keep(level: int, text: bytes, _data: Any) -> None:
    if level == _ERROR:
        _LAST.append(text.decode(errors="replace").strip())


def _because() -> str:
    words = [_WHERE.sub("", line) for line in _LAST if line]
    return f": {words[0]}" if words else ""
