"""The dataset card (README.md) of a version: Hugging Face's YAML header, sizes, drops, lineage. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SPLITS = ("train", "holdout")


def _table(head: tuple[str, str], values: Mapping[str, Any]) -> list[str]:
    if not values:
        return ["none", ""]
    return [
        f"| {head[0]} | {head[1]} |",
        "| --- | --- |",
        *[f"| {name} | {value} |" for name, value in values.items()],
        "",
    ]


def _header(manifest: Mapping[str, Any]) -> list[str]:
    lines = ["---", "language:"]
    lines += [f"- {lang}" for lang in manifest["languages"]]
    lines += ["task_categories:", "- text-generation", "pretty_name: Mulle tool search", "configs:"]
    for config, suffix in (("default", ""), ("chat", ".chat")):
        lines += [f"- config_name: {config}", "  data_files:"]
        for split in _SPLITS:
            if manifest["counts"][split]:  # an empty JSON Lines file can't be loaded as a split
                lines += [f"  - split: {split}", f"    path: {split}{suffix}.jsonl"]
    return [*lines, "---"]


def render_card(manifest: Mapping[str, Any], certificate: Mapping[str, Any]) -> str:
    """Markdown; depends on its arguments only, so the card is as reproducible as the rows."""
    inputs = manifest["inputs"]
    pairs = {name: f"{pair['max_jaccard']} ({pair['method']})" for name, pair in certificate["pairs"].items()}
    tokens = {f"{part}, {name}": value for part, one in manifest["tokens"].items() for name, value in one.items()}
    lines = [
        *_header(manifest),
        "",
        f"# Mulle dataset {manifest['version']}",
        "",
        "Questions to a tool search with the retrieved tools as context, and the answers to learn.",
        "Made from the service's own log, golden answers, feedback and synthetic rows.",
        "",
        "## Sizes",
        *_table(("what", "number"), manifest["counts"]),
        "## Labels",
        *_table(("source", "rows"), manifest["label_sources"]),
        "## Languages",
        *_table(("language", "share"), manifest["languages"]),
        "## Tokens of the base model",
        *_table(("what", "tokens"), tokens),
        "## Dropped, with reasons (rejects.jsonl)",
        *_table(("reason", "number"), manifest["drops"]),
        "## Splits",
        f"Near-duplicate clusters (Jaccard ≥ {certificate['threshold']}, {certificate['shingling']})",
        "lie on one side for life. The highest similarity across sides, re-derived by `lake.dataset.verify`:",
        "",
        *_table(("sides", "highest Jaccard"), pairs),
        "## Lineage",
        "rows.parquet names request, review and synthetic ids of every row. Read from:",
        "",
        *_table(("table", "version"), inputs.get("tables", {})),
        *_table(("input", "value"), {k: v for k, v in inputs.items() if isinstance(v, str | int)}),
        "## Configuration",
        *_table(("setting", "value"), manifest["config"]),
        "## Load",
        "```python",
        "from datasets import load_dataset",
        'load_dataset("json", data_files={"train": "train.jsonl", "holdout": "holdout.jsonl"})',
        "```",
        "",
    ]
    return "\n".join(lines)
