"""Binds the teacher's step to one run: which endpoint, which folders, which settings."""

from __future__ import annotations

from typing import Any

from flows.steps.parts import open_builder, read_cases
from flows.steps.stage import StageContext
from flows.steps.teach import run_teach
from flows.teacher_settings import TeacherSettings
from lake.errors import SetupError
from serving.backends import Backend, backend_from_env


def teacher_backend(settings: TeacherSettings) -> Backend:
    """MULLE_TEACHER_*. Raises `SetupError` naming the setting to mend."""
    values = {
        "LLM_API_BASE": settings.api_base,
        "LLM_MODEL_NAME": settings.model,
        "LLM_API_KEY": settings.api_key.get_secret_value(),
    }
    try:
        return backend_from_env(values)
    except SetupError as error:
        said = str(error).replace("LLM_MODEL_NAME", "MULLE_TEACHER_MODEL").replace("LLM_A", "MULLE_TEACHER_A")
        raise SetupError(said, **error.detail) from error


def teach_stage(stage: StageContext, limit: int | None) -> dict[str, Any]:
    """Labels of the stronger model for at most `limit` logged questions."""
    settings = TeacherSettings()
    return run_teach(
        stage.lake.lake_dir,
        stage.lake.data_dir / "teacher",
        stage.run_id,
        open_builder(stage),
        teacher_backend(settings),
        read_cases(stage.flows.test_set),
        settings,
        limit=limit,
        progress_path=stage.progress_file,
        log=stage.log,
        mask_off=stage.lake.unmasked_types,
    )
