"""A masked question makes one prompt, at serving and at training: the same text, the same token ids."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from lake.privacy.mask import mask
from lake.privacy.types import PLACEHOLDERS
from lake.prompt import PromptBuilder
from lake.rules.render import conversational, plain, render
from lake.schemas.records import RetrievedItem
from lake.schemas.rows import DatasetRow
from tests.lake.test_privacy_mask import ONE_OF_EACH

TOKENIZER = Path(__file__).resolve().parents[2] / "models/base/gemma3-270m/hf/tokenizer.json"
ITEMS = [RetrievedItem(1, 1.0, "zoom", "Zoom", "https://zoom.us", "화상 회의 도구입니다.", "", [], "화상 회의")]


def words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize("kind", PLACEHOLDERS)
def test_same_text_at_serving_and_training(kind: str) -> None:
    question = mask(ONE_OF_EACH[kind]).text
    served = PromptBuilder(words).build(question, ITEMS)
    row = DatasetRow("r", question, "ko", ITEMS, "추천: Zoom", "golden", ["q"])
    trained = render(row, PromptBuilder(words))
    text = trained.prompt.text
    assert plain(text, row.answer)["prompt"] == served.text
    assert conversational(text, row.answer)["prompt"] == served.messages
    assert PLACEHOLDERS[kind] in served.text and served.sha256 == trained.prompt.sha256
    assert mask(served.text).text == served.text  # masking a stored prompt would not move it from what was served


@pytest.mark.skipif(not TOKENIZER.is_file(), reason="the base model is not prepared: make models")
def test_same_token_ids_and_placeholders_survive_the_tokenizer() -> None:
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    for text in ONE_OF_EACH.values():
        question = mask(text).text
        served = PromptBuilder(words).build(question, ITEMS).text
        row = DatasetRow("r", question, "ko", ITEMS, "추천: Zoom", "golden", ["q"])
        trained = plain(render(row, PromptBuilder(words)).prompt.text, row.answer)["prompt"]
        ids = tokenizer.encode(served, add_special_tokens=False).ids
        assert ids == tokenizer.encode(trained, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == served
    costs = [len(tokenizer.encode(one, add_special_tokens=False).ids) for one in PLACEHOLDERS.values()]
    assert max(costs) <= 10
