"""`python -m flows.NAME`: words and options reach the right flow, known errors are one line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from flows.edge import main
from lake.errors import InputError

Calls = list[tuple[str, dict[str, Any]]]


def fake(name: str, fn: Callable[..., Any], calls: Calls) -> Any:
    """What `main` uses of a flow: its function's signature, and being called."""

    class Called(SimpleNamespace):
        def __call__(self, **options: Any) -> None:
            calls.append((name, options))
            if options.get("format") == "xml":
                raise InputError("There is no format 'xml'.")

    return Called(fn=fn)


def take(file: str = "sample", format: str = "jsonl") -> None:
    """Takes."""


def give(format: str = "jsonl", limit: int | None = None) -> None:
    """Gives."""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ("take", {"file": "sample", "format": "jsonl"})),
        (["--file", "a"], ("take", {"file": "a", "format": "jsonl"})),
        (["import", "a", "--format", "csv"], ("take", {"file": "a", "format": "csv"})),
        (["import", "--file", "export"], ("take", {"file": "export", "format": "jsonl"})),
        (["export"], ("give", {"format": "jsonl", "limit": None})),
        (["export", "csv", "--limit", "3"], ("give", {"format": "csv", "limit": 3})),
        (["export", "--limit", "3"], ("give", {"format": "jsonl", "limit": 3})),
    ],
)
def test_words_choose_the_flow(
    words: list[str], expected: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Calls = []
    importer, exporter = fake("take", take, calls), fake("give", give, calls)
    monkeypatch.setattr(sys, "argv", ["flows.x", *words])
    with pytest.raises(SystemExit) as left:
        main(importer, **{"import": importer, "export": exporter})
    assert left.value.code == 0
    assert calls == [expected]


def test_a_known_error_is_one_line_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    importer = fake("take", take, [])
    monkeypatch.setattr(sys, "argv", ["flows.x", "--format", "xml"])
    with pytest.raises(SystemExit) as left:
        main(importer)
    assert left.value.code == 65
    assert capsys.readouterr().err.splitlines() == ["invalid_input: There is no format 'xml'."]
