"""Token counts: exact from a tokenizer file, an upper estimate without one."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from lake.errors import ModelMissingError
from serving.tokens import ConservativeCounter, TokenCounter, token_counter

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tokenizer_json(tmp_path: Path) -> Path:
    vocabulary = {"<unk>": 0, "로그": 1, "검색": 2, "도구": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_exact_counts(tokenizer_json: Path) -> None:
    counter = token_counter(tokenizer_json)
    assert counter.exact
    assert counter.count("로그 검색 도구") == 3
    assert counter.count("") == 0
    assert counter.count("로그 " * 3000) == 3000  # longer than what is cached


def test_missing_and_broken_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelMissingError, match="MULLE_TOKENIZER_JSON"):
        TokenCounter(tmp_path / "none.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelMissingError, match="not a tokenizer"):
        TokenCounter(tmp_path / "tokenizer.json")


def test_estimate_needs_no_file() -> None:
    counter = token_counter(None)
    assert not counter.exact
    assert counter.count("") == 0
    assert counter.count("한국어 텍스트") == 6 + 1 + 1
    assert counter.count("abc") == 3


def test_estimate_is_never_below_the_base_model() -> None:
    path = ROOT / "models" / "base" / "gemma3-270m" / "hf" / "tokenizer.json"
    if not path.is_file():
        pytest.skip("the base model is not prepared: make models")
    exact, estimate = TokenCounter(path), ConservativeCounter()
    for line in (ROOT / "data" / "sample" / "catalog.jsonl").read_bytes().splitlines():
        row = orjson.loads(line)
        for text in (row["description_ko"], row["description_en"], row["name"], row["url"]):
            assert estimate.count(text) >= exact.count(text), text
