"""GGUF files read and rewritten: metadata copied field by field, tensors streamed one at a time.

Used to put the chat template into the base GGUF and, with other tensors, for the merged model. Output appears
whole or not at all. The tokenizer fields are copied, never rebuilt, so the tokenizer of a written file is that
of the file it came from.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import gguf

from lake.errors import ModelMissingError, SetupError
from lake.files import fsync_dir, require_free_disk

CHAT_TEMPLATE = "tokenizer.chat_template"
FILE_TYPE = "general.file_type"
# Written by GGUFWriter itself.
_OWN_FIELDS = ("general.architecture",)


def open_gguf(path: Path) -> gguf.GGUFReader:
    """A reader on `path` (memory-mapped). Raises `ModelMissingError` or `SetupError`, never a bare ValueError."""
    if not path.is_file():
        raise ModelMissingError(f"There is no GGUF file {path}: run `python -m serving.base_models prepare`.")
    try:
        return gguf.GGUFReader(path, "r")
    except (ValueError, IndexError, KeyError, OSError, OverflowError, MemoryError) as error:
        raise SetupError(f"{path} is not a readable GGUF file ({error}): remove it and prepare it again.") from error


def field_value(reader: gguf.GGUFReader, key: str) -> Any:
    """Value of a metadata field, or None where it is missing."""
    field = reader.get_field(key)
    return field.contents() if field is not None else None


def copy_fields(reader: gguf.GGUFReader, writer: gguf.GGUFWriter, replace: Mapping[str, Any]) -> None:
    """Copy every metadata field; `replace` (name -> str or int) wins over what the file holds, and is added."""
    left = dict(replace)
    for field in reader.fields.values():
        if field.name in _OWN_FIELDS or field.name.startswith("GGUF."):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value = left.pop(field.name, None)
        writer.add_key_value(field.name, field.contents() if value is None else value, kind, sub_type=inner)
    for name, value in left.items():
        kind = gguf.GGUFValueType.STRING if isinstance(value, str) else gguf.GGUFValueType.UINT32
        writer.add_key_value(name, value, kind)


@contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that is fsynced and renamed to it where the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        fd = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
        fsync_dir(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_with_template(source: Path, target: Path, template: str) -> None:
    """Copy a GGUF, its tensors untouched, with `template` as its chat template. Safe to retry."""
    require_free_disk(target.parent, int(source.stat().st_size * 1.1), f"Writing {target.name}")
    reader = open_gguf(source)
    with atomic_output(target) as temporary:
        writer = gguf.GGUFWriter(temporary, arch=str(field_value(reader, "general.architecture")))
        with closing(writer):
            copy_fields(reader, writer, {CHAT_TEMPLATE: template})
            for tensor in reader.tensors:
                writer.add_tensor_info(
                    tensor.name, tensor.data.shape, tensor.data.dtype, tensor.data.nbytes, tensor.tensor_type
                )
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for tensor in reader.tensors:
                writer.write_tensor_data(tensor.data)
