"""Index step: catalogue → FAISS index version → `data/index/current`; or back to the version before."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from flows.steps.stage import StageContext
from lake.catalog import spool_catalog
from lake.progress import Progress
from serving.encoders import load_encoder
from serving.index import build_index, rollback_index
from serving.retrieval_settings import RetrievalSettings


def run_index(stage: StageContext, catalog: str | None) -> dict[str, Any]:
    """Build and switch. Raises `CatalogError` when the catalogue holds no usable row. Safe to retry."""
    path = Path(catalog) if catalog else stage.flows.catalog

    def announce(name: str, total: int) -> Progress:
        return Progress(stage.progress_file, f"index: {name}", total, say=stage.log)

    stage.lake.index_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".catalog-", dir=stage.lake.index_dir) as spool:
        loaded = spool_catalog(path, Path(spool))
        for reject in loaded.rejects:
            stage.log(f"{path}:{reject.line}: {reject.reason}")
        encoder = load_encoder(stage.serving.embedder, allow_hub=RetrievalSettings().allow_hub)
        manifest = build_index(loaded.tools, loaded.version, encoder, stage.lake.index_dir, announce)
    return {
        "catalog": str(path),
        "catalog_version": loaded.version,
        "tools": manifest.n_tools,
        "rejected": len(loaded.rejects),
        "rejects": [{"line": r.line, "reason": r.reason} for r in loaded.rejects[:100]],
        "index": manifest.to_dict(),
    }


def run_rollback(stage: StageContext) -> dict[str, Any]:
    """Put the version before back in service. Raises `IndexUnusableError` where there is none."""
    manifest = rollback_index(stage.lake.index_dir)
    stage.log(f"{manifest.version} is in service again")
    return {"rolled_back_to": manifest.version, "index": manifest.to_dict()}
