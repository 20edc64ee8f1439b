"""Dataset rows to token ids, checked: what the model is trained on is what the server will send it.

Reads `<dataset>/{train,holdout}.jsonl` and `manifest.json`. Invariant: every row's prompt ids are a prefix of
its prompt+completion ids, begin with exactly one BOS, and no row is cut: a longer one is refused and counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from lake.errors import DatasetError
from lake.files import read_json, sha256_file
from lake.redacted import original_of
from lake.withdrawn import require_kept


@dataclass(frozen=True, slots=True)
class TokenRow:
    """Token ids of prompt + completion; the first `prompt_len` are the prompt's."""

    ids: list[int]
    prompt_len: int

    @property
    def labels(self) -> list[int]:
        """Loss on the completion only: -100 elsewhere."""
        return [-100] * self.prompt_len + self.ids[self.prompt_len :]


@dataclass(frozen=True, slots=True)
class TokenRows:
    """What is left of a split, and how many rows were refused because they are too long."""

    rows: list[TokenRow]
    too_long: int = 0
    longest: int = 0
    too_long_lines: list[int] = field(default_factory=list[int])


def check_manifest(dataset_dir: Path) -> dict[str, Any]:
    """The dataset's manifest after its files were hashed again. Raises `DatasetError`; a withdrawn one is refused."""
    require_kept(dataset_dir)
    path = dataset_dir / "manifest.json"
    try:
        manifest = read_json(path)
    except (OSError, orjson.JSONDecodeError) as error:
        raise DatasetError(f"{path} can't be read: build the dataset first (python -m flows.build).") from error
    hashes = _file_hashes(manifest)
    for name, want in hashes.items():
        file = dataset_dir / name
        if not file.is_file():
            raise DatasetError(f"{file} is missing though the manifest names it: build the dataset again.")
        if original_of(dataset_dir, name, sha256_file(file), file.stat().st_size)[0] != want:
            raise DatasetError(f"{file} was changed since it was built (sha256 differs): build it again.")
    if split_file(dataset_dir, "train").name not in {Path(name).name for name in hashes}:
        raise DatasetError(f"{path} names no sha256 of the training file: build the dataset again.")
    return manifest


def _file_hashes(manifest: dict[str, Any]) -> dict[str, str]:
    """File name -> sha256, from `files: {name: sha256}` or `files: {name: {"sha256": ...}}`."""
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise DatasetError("The dataset's manifest has no `files` with sha256: build the dataset again.")
    found: dict[str, str] = {}
    for name, value in files.items():
        digest = value.get("sha256") if isinstance(value, dict) else value
        if not isinstance(digest, str):
            raise DatasetError(f"The dataset's manifest has no sha256 for {name}: build the dataset again.")
        found[str(name)] = digest
    return found


def split_file(dataset_dir: Path, split: str) -> Path:
    """The conversational file of a split: `<split>.chat.jsonl`, else `<split>.jsonl`."""
    chat = dataset_dir / f"{split}.chat.jsonl"
    return chat if chat.exists() else dataset_dir / f"{split}.jsonl"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Conversational rows. Raises `DatasetError` with the line number where one has another shape."""
    if not path.is_file():
        raise DatasetError(f"{path} is missing: build the dataset first (python -m flows.build).")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
            for part, role in (("prompt", "user"), ("completion", "assistant")):
                last = row[part][-1]
                if last["role"] != role or not isinstance(last["content"], str) or not last["content"].strip():
                    raise ValueError(f"`{part}` must end with a non-empty {role} message")
        except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise DatasetError(f"{path} line {number} is not a conversational row: {error!r}.") from error
        rows.append({"prompt": row["prompt"], "completion": row["completion"]})
    return rows


def tokenise(rows: list[dict[str, Any]], tokenizer: Any, template: str, max_length: int) -> TokenRows:
    """Ids through the chat template, as a server makes them. Raises `DatasetError` where they would differ."""
    kept: list[TokenRow] = []
    long_lines: list[int] = []
    longest = 0
    for number, row in enumerate(rows, start=1):
        prompt = _template_ids(tokenizer, row["prompt"], template, generation=True)
        full = _template_ids(tokenizer, row["prompt"] + row["completion"], template, generation=False)
        if full[: len(prompt)] != prompt or len(full) <= len(prompt):
            raise DatasetError(
                f"Row {number}: the tokenised prompt is not a prefix of prompt + completion, so the model "
                "would be "
                "trained on another prompt than it will be asked with: mend the chat template."
            )
        _check_bos(number, prompt, tokenizer.bos_token_id)
        _check_text(number, tokenizer, template, row["prompt"], prompt)
        longest = max(longest, len(full))
        if len(full) > max_length:
            long_lines.append(number)
        else:
            kept.append(TokenRow(full, len(prompt)))
    return TokenRows(kept, len(long_lines), longest, long_lines)


def _template_ids(tokenizer: Any, messages: list[dict[str, str]], template: str, generation: bool) -> list[int]:
    encoded = tokenizer.apply_chat_template(
        messages, chat_template=template, add_generation_prompt=generation, tokenize=True, return_dict=True
    )
    return list(encoded["input_ids"])


def _check_bos(number: int, ids: list[int], bos: int | None) -> None:
    """A base without BOS has nothing to check; one with BOS gets exactly one, in front."""
    if bos is not None and (ids[:1] != [bos] or ids.count(bos) != 1):
        raise DatasetError(
            f"Row {number}: the prompt must begin with BOS (id {bos}) exactly once, it has {ids.count(bos)}: "
            "mend the chat template (bos_token) or the tokenizer."
        )


def _check_text(number: int, tokenizer: Any, template: str, messages: list[dict[str, str]], ids: list[int]) -> None:
    """The ids must equal those of the rendered text: servers render first and tokenise then."""
    text = tokenizer.apply_chat_template(messages, chat_template=template, add_generation_prompt=True, tokenize=False)
    if list(tokenizer(text, add_special_tokens=False)["input_ids"]) != ids:
        raise DatasetError(f"Row {number}: the template's ids differ from those of its text: mend the tokenizer.")
