"""Which model of a server is the champion: by load name, folder or identifier, and never one that is not listed."""

from __future__ import annotations

import pytest

from lake.errors import SetupError
from serving.adapters import new_adapter_name
from serving.answers import ModelCard
from serving.backends import Backend
from serving.champion import follow, is_unresolved, served_name

ID, OTHER = "0123456789abcdef", "fedcba9876543210"
OLDER, NEWER = f"mulle-{ID}-01kb0000000000000000000000", f"mulle-{ID}-01kc0000000000000000000000"


@pytest.mark.parametrize(
    ("served", "expected"),
    [
        ([ModelCard("base"), ModelCard(OLDER, f"/m/{ID}", "base")], OLDER),
        ([ModelCard(NEWER), ModelCard(OLDER)], NEWER),  # of several loads the newest
        ([ModelCard("mine", f"/m/adapters/{ID}", "base")], "mine"),  # loaded by hand under another name
        ([ModelCard("mine", f"/m/adapters/{ID}")], None),  # a base model's folder is no adapter
        ([ModelCard("alias", f"/m/{ID}", "base"), ModelCard(ID)], ID),
        ([ModelCard("other"), ModelCard(ID)], ID),  # LM Studio, llama.cpp: the identifier
        ([ModelCard(f"{ID}:latest")], f"{ID}:latest"),  # Ollama
        ([ModelCard(f"mulle-{OTHER}-01kb0000000000000000000000"), ModelCard("base")], None),
        ([ModelCard(f"mulle-{ID}-short")], None),
        ([], None),
    ],
)
def test_served_name(served: list[ModelCard], expected: str | None) -> None:
    assert served_name(served, ID) == expected


def test_the_name_that_promotion_gives_is_found() -> None:
    name = new_adapter_name(ID)
    assert served_name([ModelCard(name)], ID) == name and served_name([ModelCard(name)], OTHER) is None


def test_follow_says_why_not() -> None:
    backend = Backend("vllm", "http://127.0.0.1:9/v1", "champion", follows_champion=True)
    assert is_unresolved(backend)
    found = follow(backend, [ModelCard(NEWER)], ID)
    assert (found.model, found.adapter, is_unresolved(found)) == (NEWER, ID, False)
    with pytest.raises(SetupError, match="There is no champion yet"):
        follow(backend, [ModelCard(NEWER)], "")
    with pytest.raises(SetupError, match=rf"does not have the champion {OTHER} \(it lists {NEWER}\)"):
        follow(backend, [ModelCard(NEWER)], OTHER)
