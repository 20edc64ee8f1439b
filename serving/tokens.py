"""Counts tokens of the served model, so that a prompt's context keeps within its budget.

Reads a `tokenizer.json` (Hugging Face `tokenizers`, no torch). Where the gateway has none (a model that only
LM Studio holds), `ConservativeCounter` gives an upper estimate instead, and readiness says so. Invariant: a
count never depends on anything but the text; both counters are thread-safe.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from lake.errors import ModelMissingError


class TokenCounter:
    """Exact counts by one tokenizer file, without special tokens."""

    exact = True

    def __init__(self, tokenizer_json: Path) -> None:
        """Raises `ModelMissingError` where the file is missing or is not a tokenizer."""
        if not tokenizer_json.is_file():
            raise ModelMissingError(
                f"No tokenizer at {tokenizer_json}: run `make models`, or set MULLE_TOKENIZER_JSON to the "
                "tokenizer.json of the model that you serve.",
                path=str(tokenizer_json),
            )
        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer_json))
        except Exception as error:  # the Rust side raises bare Exception
            raise ModelMissingError(
                f"{tokenizer_json} is not a tokenizer file ({error}): copy it again from the model's folder.",
                path=str(tokenizer_json),
            ) from error
        self.source = str(tokenizer_json)
        # Context entries repeat between questions: the same catalogue lines are counted again and again.
        self._cached = lru_cache(maxsize=8192)(self._count)

    def _count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def count(self, text: str) -> int:
        """Number of tokens of `text`."""
        return self._cached(text) if len(text) <= 2048 else self._count(text)


class ConservativeCounter:
    """An upper estimate without a tokenizer: a token each for capitals, digits and non-ASCII characters, one
    for two others, and one more.

    Checked against the bundled base model: never below the exact count for a name, URL or description of the
    sample catalogue (a test says so).
    """

    exact = False
    source = "estimate"

    def count(self, text: str) -> int:
        """Estimated number of tokens of `text`; 0 for an empty one."""
        dense = sum(1 for char in text if char > "\x7f" or char.isdigit() or char.isupper())
        return dense + (len(text) - dense + 1) // 2 + 1 if text else 0


def token_counter(tokenizer_json: Path | None) -> TokenCounter | ConservativeCounter:
    """The exact counter where a file is given, else the estimate."""
    return TokenCounter(tokenizer_json) if tokenizer_json is not None else ConservativeCounter()
