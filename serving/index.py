"""The search index, in three verbs: `build_index` writes a version and puts it in service, `rollback_index` puts the
one before back, `load_index` reads the one in service.

The folder's shape and its checks are in `index_files.py`, the build in `index_build.py`.
"""

from __future__ import annotations

from serving.index_build import build_index, rollback_index
from serving.index_files import IndexManifest, ToolIndex, current_version_dir, load_index, load_version

__all__ = [
    "IndexManifest",
    "ToolIndex",
    "build_index",
    "current_version_dir",
    "load_index",
    "load_version",
    "rollback_index",
]
