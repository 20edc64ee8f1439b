"""Parsers of what LLM servers send: any bytes, any JSON give a value or a typed error."""

from __future__ import annotations

import contextlib
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from lake.errors import BackendError
from serving.answers import blames_model, error_text, parse_chat, parse_models


@given(st.binary(max_size=300))
def test_any_bytes_are_an_answer_or_a_typed_error(body: bytes) -> None:
    for parse in (parse_chat, parse_models):
        with contextlib.suppress(BackendError):
            parse(body)
    assert blames_model(body) in (True, False)
    assert "\n" not in error_text(body) and len(error_text(body)) <= 302


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "usage", "error", "data", "id", "model"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(_JSON)
def test_any_json_is_an_answer_or_a_typed_error(value: Any) -> None:
    try:
        body = orjson.dumps(value)
    except (TypeError, orjson.JSONEncodeError):
        return
    test_any_bytes_are_an_answer_or_a_typed_error.hypothesis.inner_test(body)  # type: ignore[attr-defined]
