"""The dataset card (README.md) of a version: Hugging Face's YAML header, sizes, drops, lineage. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lake.schemas.rows import SPLITS

_CONFIGS = (("default", "", ""), ("chat", ".chat", ""), ("dpo", ".dpo", "pairs_"))  # name, file suffix, count prefix
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_BAR = 40  # characters of the longest bar


def _table(head: tuple[str, str], values: Mapping[str, Any]) -> list[str]:
    if not values:
        return ["none", ""]
    return [
        f"| {head[0]} | {head[1]} |",
        "| --- | --- |",
        *[f"| {_cell(name)} | {_cell(value)} |" for name, value in values.items()],
        "",
    ]


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _header(manifest: Mapping[str, Any]) -> list[str]:
    counts = manifest["counts"]
    size = next((name for below, name in _SIZES if counts["rows"] < below), "1M<n<10M")
    lines = ["---", "language:"]
    lines += [f"- {lang}" for lang in manifest["languages"]]
    lines += [
        "task_categories:",
        "- text-generation",
        "pretty_name: Mulle tool search",
        "size_categories:",
        f"- {size}",
    ]
    lines.append("configs:")
    for config, suffix, prefix in _CONFIGS:
        splits = [split for split in SPLITS if counts.get(f"{prefix}{split}")]
        if splits:  # an empty JSON Lines file can't be loaded as a split
            lines += [f"- config_name: {config}", "  data_files:"]
            for split in splits:
                lines += [f"  - split: {split}", f"    path: {split}{suffix}.jsonl"]
    return [*lines, "---"]


def _bars(histogram: Mapping[str, int]) -> list[str]:
    most = max(histogram.values(), default=0)
    bars = {name: f"{n} {'█' * round(_BAR * n / most)}" for name, n in histogram.items()}
    return _table(("prompt and completion, tokens", "rows"), bars)


def render_card(manifest: Mapping[str, Any], certificate: Mapping[str, Any], hashes: Mapping[str, str]) -> str:
    """Markdown; depends on its arguments only, so the card is as reproducible as the rows. `hashes`: sha256 a file."""
    inputs = manifest["inputs"]
    pairs = {name: f"{pair['max_jaccard']} ({pair['method']})" for name, pair in certificate["pairs"].items()}
    tokens = {f"{part}, {name}": value for part, one in manifest["tokens"].items() for name, value in one.items()}
    counts = manifest["counts"]
    return "\n".join(
        [
            *_header(manifest),
            "",
            f"# Mulle dataset {manifest['version']}",
            "",
            "Questions to a tool search with the retrieved tools as context, and the answers to learn.",
            "Made from the service's own log, golden answers, feedback and synthetic rows.",
            "",
            "## Sizes",
            *_table(("what", "number"), counts),
            "## Labels",
            *_table(("source", "rows"), manifest["label_sources"]),
            "Generation 0: people or a stronger model; 1: the base; d + 1: an adapter trained on depth d.",
            "",
            *_table(("generation", "rows"), manifest["generations"]),
            "## Balance",
            *_table(("language", "share"), manifest["languages"]),
            *_table(("category of the answer's tool", "share"), manifest["categories"]),
            f"No tool suits: {manifest['no_suitable_tool_share']}",
            "",
            "## Tokens of the base model",
            *_table(("what", "tokens"), tokens),
            *_bars(manifest["token_histogram"]),
            "## Dropped, with reasons (rejects.jsonl)",
            *_table(("reason", "number"), manifest["drops"]),
            "## Splits",
            f"Near-duplicate clusters (Jaccard ≥ {certificate['threshold']}, {certificate['shingling']})",
            "lie on one side for life. The highest similarity across sides, re-derived by `lake.dataset.verify`:",
            "",
            *_table(("sides", "highest Jaccard"), pairs),
            "## Lineage",
            "rows.parquet names request, review, feedback, teacher-label and synthetic ids of every row, what was",
            "repaired in it and its generation. Read from:",
            "",
            *_table(("table", "version"), inputs.get("tables", {})),
            *_table(("input", "value"), {k: v for k, v in inputs.items() if isinstance(v, str | int)}),
            "## Configuration",
            *_table(("setting", "value"), manifest["config"]),
            "## Files",
            *_table(("file", "sha256"), dict(sorted(hashes.items()))),
            "## Load",
            "```python",
            "from datasets import load_dataset",
            f'load_dataset("{manifest["version"]}")  # the folder; "chat" and "dpo" are its other configurations',
            "```",
            "",
        ]
    )
