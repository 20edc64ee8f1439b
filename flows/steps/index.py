"""Index step: catalogue → FAISS index version → `data/index/current`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.steps.stage import StageContext
from lake.catalog import load_catalog
from serving.encoders import load_encoder
from serving.index import build_index
from serving.retrieval_settings import RetrievalSettings


def run_index(stage: StageContext, catalog: str | None) -> dict[str, Any]:
    """Build and switch. Raises `CatalogError` when the catalogue holds no usable row. Safe to retry."""
    path = Path(catalog) if catalog else stage.flows.catalog
    loaded = load_catalog(path)
    for reject in loaded.rejects:
        stage.log(f"{path}:{reject.line}: {reject.reason}")
    encoder = load_encoder(stage.serving.embedder, allow_hub=RetrievalSettings().allow_hub)
    manifest = build_index(loaded.tools, loaded.version, encoder, stage.lake.index_dir)
    return {
        "catalog": str(path),
        "catalog_version": loaded.version,
        "tools": len(loaded.tools),
        "rejected": len(loaded.rejects),
        "rejects": [{"line": r.line, "reason": r.reason} for r in loaded.rejects[:100]],
        "index": manifest.to_dict(),
    }
