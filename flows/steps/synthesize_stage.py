"""Binds the synthesis to one run: who writes and who judges, which tools, which settings; then the dataset again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from flows.steps.parts import open_builder, open_retriever
from flows.steps.stage import StageContext
from flows.steps.stages import build_stage
from flows.steps.synthesis_asks import shares_of
from flows.steps.synthesize import Judge, SynthesisConfig, run_synthesize
from flows.steps.teach_stage import teacher_backend
from flows.synthesis_settings import SynthesisSettings
from flows.teacher_settings import TeacherSettings
from serving.backends import Backend, backend_from_env
from serving.envfile import read_env_file


def synthesis_backend(stage: StageContext, settings: SynthesisSettings) -> Backend:
    """MULLE_SYNTH_*; where that is not set, the LLM that the gateway asks (its env file, else LLM_*)."""
    if settings.api_base:
        values = {"LLM_API_BASE": settings.api_base, "LLM_MODEL_NAME": settings.model}
        return backend_from_env(values | {"LLM_API_KEY": settings.api_key.get_secret_value()})
    env_file = stage.environ.get("MULLE_ENV_FILE", "")
    return backend_from_env(read_env_file(Path(env_file)) if env_file else stage.environ)


def seed_of(run_id: str) -> int:
    """A seed of the run's own: another run asks about other tools, the same run goes on with its asks."""
    return int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:4], "big") >> 1


def synthesis_config(
    settings: SynthesisSettings, tools: int | None, per_tool: int, seed: int, slots: int
) -> SynthesisConfig:
    """The settings as the step takes them; `slots`: asks at once where the settings leave it open."""
    form = settings.form if settings.form != "auto" else ("json" if settings.api_base else "lines")
    return SynthesisConfig(
        per_tool=per_tool,
        tools=tools,
        max_tools=settings.max_tools,
        seed=seed,
        shares=shares_of(settings.shares),
        korean_share=settings.korean_share,
        form=form,
        concurrency=settings.concurrency or slots,
        max_tokens=settings.max_tokens,
        deadline_s=settings.deadline_s,
        prices=settings.prices,
        budget_tokens=settings.budget_tokens,
        budget_cost=settings.budget_cost,
    )


def synthesis_judge(settings: SynthesisSettings, teacher: TeacherSettings) -> Judge | None:
    """The teacher as a judge, where the settings want one."""
    if not settings.judge:
        return None
    return Judge(
        teacher_backend(teacher),
        teacher.prices,
        teacher.budget_tokens,
        teacher.budget_cost,
        teacher.concurrency,
        teacher.deadline_s,
    )


def synthesize_stage(stage: StageContext, tools: int | None, per_tool: int, seed: int | None) -> dict[str, Any]:
    """Synthetic rows into the lake, then the dataset again, with them."""
    settings = SynthesisSettings()
    retriever = open_retriever(stage)
    synthesis = run_synthesize(
        stage.lake.lake_dir,
        stage.lake.data_dir / "synthesis",
        stage.run_id,
        retriever.index.tools,  # mapped: a catalogue of any size
        retriever,
        open_builder(stage),
        synthesis_backend(stage, settings),
        stage.flows.test_set,
        synthesis_config(
            settings, tools, per_tool, seed_of(stage.run_id) if seed is None else seed, stage.serving.llamacpp_slots
        ),
        synthesis_judge(settings, TeacherSettings()),
        index_version=retriever.index.version,
        progress_path=stage.progress_file,
        log=stage.log,
        mask_off=stage.lake.unmasked_types,
    )
    stage.log(f"synthesis: {synthesis}")
    built = build_stage(stage)
    return {"synthesis": synthesis, **built}
