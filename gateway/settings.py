"""Settings of the gateway. Read once by `python -m gateway`, then passed down."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

_CONFIGS = Path(__file__).resolve().parent.parent / "configs"


class GatewaySettings(BaseSettings):
    """Environment MULLE_*."""

    model_config = SettingsConfigDict(env_prefix="MULLE_", frozen=True, extra="ignore")

    host: str = Field(default="127.0.0.1", description="Address that the gateway listens on.")
    port: int = Field(default=8700, ge=0, le=65535, description="TCP port of the gateway; 0: any free one.")
    env_file: Path | None = Field(
        default=None,
        description="File that alone supplies LLM_*, watched for changes; unset: the process environment.",
    )
    backend_poll_s: float = Field(
        default=0.5, gt=0, le=60, description="Time between two looks at the env file, seconds."
    )
    index_poll_s: float = Field(
        default=2.0, gt=0, le=600, description="Time between two looks for a new index, seconds."
    )

    journal_mode: Literal["sync", "group"] = Field(
        default="sync",
        description="sync: every record is on disk before its answer leaves; group: within the window.",
    )
    journal_group_window_ms: float = Field(
        default=50.0,
        gt=0,
        le=10_000,
        description="Longest wait of a record for its sync in group mode, milliseconds.",
    )
    journal_timeout_s: float = Field(
        default=10.0, gt=0, le=300, description="Longest wait for the journal before a request is refused, seconds."
    )

    top_k: int = Field(default=3, ge=1, le=100, description="Tools returned where a request does not say how many.")
    top_k_max: int = Field(default=10, ge=1, le=100, description="Most tools that a request may ask for.")
    question_max_chars: int = Field(default=2000, ge=1, le=20_000, description="Longest question, characters.")
    retrieval_threads: int = Field(
        default=2, ge=1, le=64, description="Questions embedded and ranked at the same time."
    )

    max_tokens: int = Field(default=160, ge=1, le=8192, description="Longest answer of the LLM, tokens.")
    max_tokens_max: int = Field(
        default=1024,
        ge=1,
        le=8192,
        description="Longest answer that a caller of /v1/chat/completions may ask for, tokens.",
    )
    model_alias: str = Field(
        default="mulle",
        pattern=r"^[A-Za-z0-9._:/-]{1,100}$",
        description="Name of this service in /v1/models; stands for whichever model is in service.",
    )
    temperature: float = Field(
        default=0.0, ge=0, le=2, description="Sampling temperature; 0: always the likeliest token."
    )
    llm_timeout_s: float = Field(default=60.0, gt=0, le=3600, description="Longest wait for the LLM, seconds.")
    llm_connect_timeout_s: float = Field(
        default=3.0, gt=0, le=60, description="Longest wait for a connection to it, seconds."
    )
    llm_max_connections: int = Field(default=128, ge=1, le=10_000, description="Connections to the LLM server at most.")
    llm_max_response_bytes: int = Field(
        default=2 << 20, ge=1024, description="Largest answer of the LLM server, bytes."
    )
    request_deadline_s: float = Field(
        default=75.0, gt=0, le=3600, description="Every request is answered or refused within this time, seconds."
    )

    stream_heartbeat_s: float = Field(
        default=15.0, gt=0, le=300, description="Longest silence of a stream before a comment line is sent, seconds."
    )
    feedback_max_chars: int = Field(
        default=4000, ge=100, le=20_000, description="Longest comment or corrected answer of a feedback, characters."
    )

    max_in_flight: int = Field(
        default=64, ge=1, le=100_000, description="Requests worked on at once; more are refused (503)."
    )
    max_body_bytes: int = Field(default=65_536, ge=1024, description="Largest request body, bytes.")
    body_timeout_s: float = Field(default=10.0, gt=0, le=300, description="Longest time that a body may take, seconds.")
    drain_timeout_s: float = Field(
        default=30.0, ge=0, le=3600, description="Time for open requests at SIGTERM, seconds."
    )

    mask_prompts: bool = Field(
        default=False,
        description="Whether the LLM is shown placeholders for personal data in a question (true, false).",
    )
    chat_template: Path = Field(
        default=_CONFIGS / "chat_template.jinja", description="Chat template of the served model; its hash is logged."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged."
    )


class ProcessLLMSettings(BaseSettings):
    """`LLM_*` and `OPENAI_*` of the process environment: used only where MULLE_ENV_FILE is not set."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    llm_api_base: str = Field(default="", description="Address of the LLM server with /v1.")
    llm_model_name: str = Field(default="", description="Model asked of the LLM server.")
    llm_api_key: SecretStr = Field(default=SecretStr(""), description="Bearer key of the LLM server; empty: none.")
    llm_profile: str = Field(
        default="", description="vllm, lmstudio, llamacpp, ollama or openai; empty: found by asking it."
    )
    llm_adapter: str = Field(default="", description="Registry id of the adapter that the model carries; empty: none.")
    openai_api_base: str = Field(default="", description="Fallback name of LLM_API_BASE.")
    openai_base_url: str = Field(default="", description="Fallback name of LLM_API_BASE.")
    openai_model: str = Field(default="", description="Fallback name of LLM_MODEL_NAME.")
    openai_api_key: SecretStr = Field(default=SecretStr(""), description="Fallback name of LLM_API_KEY.")


def set_values(settings: BaseSettings) -> dict[str, str]:
    """The values that are not empty, by their environment names; secrets in the clear."""
    found: dict[str, str] = {}
    for name, value in settings:
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        if text:
            found[name.upper()] = text
    return found
