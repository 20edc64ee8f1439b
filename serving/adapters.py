"""Adapters on a running vLLM: list, load, unload, and prove by its own log-probabilities that one is in service.

Talks to /v1/models, /v1/load_lora_adapter, /v1/unload_lora_adapter and /v1/completions. vLLM has answered 200 to
loads that changed nothing, and may serve a stale prefix cache under a name used before: so every load gets a name
of its own (`new_adapter_name`) and every load is followed by `probe`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, cast

import httpx
from ulid import ULID

from lake.errors import AdapterError, BackendError, BackendTimeout
from lake.files import read_json
from serving.adapter_checks import AdapterFacts, check_adapter

__all__ = [
    "AdapterFacts",
    "ProbeReport",
    "ServedModel",
    "check_adapter",
    "judge",
    "list_models",
    "load_adapter",
    "new_adapter_name",
    "probe",
    "read_reference",
    "teacher_forced_logprobs",
    "unload_adapter",
]

LOAD_TIMEOUT_S = 60.0
PROBE_TIMEOUT_S = 120.0
# A live model has to differ from the live base by at least this share of what the reference differs.
MIN_EFFECT_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class ServedModel:
    """An entry of /v1/models; `parent` is the base's name for an adapter."""

    name: str
    root: str
    parent: str | None


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What a probe measured; distances are mean absolute differences of log-probabilities, nats a token."""

    model: str
    passed: bool
    reason: str
    distance_tuned: float  # live adapter against the reference's adapter
    distance_base: float  # live adapter against the reference's base
    effect: float  # live adapter against live base
    expected_effect: float  # the reference's adapter against its base
    tolerance: float
    tokens: int
    seconds: float

    def require(self) -> None:
        """Raise `AdapterError` where the probe failed."""
        if not self.passed:
            raise AdapterError(f"{self.model} must not serve: {self.reason}", report=self)


def new_adapter_name(adapter_id: str) -> str:
    """A model name for one load of an adapter; never the same twice."""
    return f"mulle-{adapter_id}-{str(ULID()).lower()}"


def _root(base_url: str) -> str:
    return base_url.rstrip("/").removesuffix("/v1")


def _client(
    base_url: str, api_key: str, timeout_s: float, transport: httpx.AsyncBaseTransport | None
) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=_root(base_url),
        headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        timeout=httpx.Timeout(timeout_s, connect=5.0),
        follow_redirects=False,
        trust_env=False,
        transport=transport,
    )


async def _call(
    client: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None = None
) -> httpx.Response:
    """One request; 401/403 and 5xx and anything but an answer become typed errors, other codes are returned."""
    where = str(client.base_url.join(path))
    try:
        response = await client.request(method, path, json=body)
    except httpx.TimeoutException as error:
        raise BackendTimeout(f"vLLM did not answer {where} in time: see data/run/vllm.log.") from error
    except httpx.TransportError as error:
        raise BackendError(f"vLLM can't be reached at {where} ({type(error).__name__}): is it running?") from error
    if response.status_code in (401, 403):
        raise BackendError(f"vLLM refused the API key at {where}: set MULLE_VLLM_API_KEY to the key it runs with.")
    return response


def _message(response: httpx.Response) -> str:
    """The server's own words in an error, at most 300 characters."""
    try:
        body: Any = response.json()
        error = body.get("error", body) if isinstance(body, dict) else body
        text = error.get("message", error) if isinstance(error, dict) else error
    except ValueError:
        text = response.text
    return str(text).replace("\n", " ")[:300]


async def list_models(
    base_url: str, api_key: str = "", *, transport: httpx.AsyncBaseTransport | None = None
) -> list[ServedModel]:
    """The models that the server offers. Raises `BackendError`; safe to retry."""
    async with _client(base_url, api_key, 10.0, transport) as client:
        response = await _call(client, "GET", "/v1/models")
    if response.status_code != 200:
        raise BackendError(f"/v1/models answered {response.status_code}: {_message(response)}")
    try:
        listed = cast(list[dict[str, Any]], response.json()["data"])
        return [ServedModel(str(m["id"]), str(m.get("root") or ""), m.get("parent")) for m in listed]
    except (ValueError, KeyError, TypeError) as error:
        raise BackendError(f"/v1/models answered something else than a list of models: {_message(response)}") from error


async def load_adapter(
    base_url: str, api_key: str, name: str, path: Path, *, transport: httpx.AsyncBaseTransport | None = None
) -> None:
    """Load the adapter in the absolute folder `path` as model `name`; probe it before you let it serve.

    Raises `AdapterError` where vLLM refuses it, the name is taken or the model is not listed afterwards, and
    `BackendError` where vLLM is not there. Not to be repeated with the same name.
    """
    if not path.is_absolute() or not (path / "adapter_config.json").is_file():
        raise AdapterError(f"{path} is not the absolute path of an adapter folder: vLLM would ask a model hub for it.")
    if name in {model.name for model in await list_models(base_url, api_key, transport=transport)}:
        raise AdapterError(f"The name {name} is in use: take a new one (new_adapter_name), names are never reused.")
    async with _client(base_url, api_key, LOAD_TIMEOUT_S, transport) as client:
        response = await _call(client, "POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path)})
    if response.status_code == 404 and "lora" not in response.text.lower():
        raise BackendError("This server has no LoRA loading: start it with `python -m serving.vllm_server`.")
    if response.status_code != 200:
        raise AdapterError(f"vLLM did not load {path.name} ({response.status_code}): {_message(response)}")
    listed = {model.name: model for model in await list_models(base_url, api_key, transport=transport)}
    if name not in listed or listed[name].root != str(path):
        raise AdapterError(f"vLLM said that it loaded {name} but does not list it for {path}: restart vLLM.")


async def unload_adapter(
    base_url: str, api_key: str, name: str, *, transport: httpx.AsyncBaseTransport | None = None
) -> bool:
    """Take model `name` out of service; False where vLLM had no such adapter. Safe to repeat."""
    async with _client(base_url, api_key, LOAD_TIMEOUT_S, transport) as client:
        response = await _call(client, "POST", "/v1/unload_lora_adapter", {"lora_name": name})
    if response.status_code == 404:
        return False
    if response.status_code != 200:
        raise BackendError(f"vLLM did not unload {name} ({response.status_code}): {_message(response)}")
    return True


async def _logprobs(
    client: httpx.AsyncClient, model: str, prompt: Sequence[int], completion: Sequence[int]
) -> list[float]:
    body = {
        "model": model,
        "prompt": [*prompt, *completion],
        "max_tokens": 1,
        "temperature": 0.0,
        "prompt_logprobs": 0,
        "add_special_tokens": False,
    }
    response = await _call(client, "POST", "/v1/completions", body)
    if response.status_code != 200:
        raise BackendError(f"/v1/completions answered {response.status_code} for {model}: {_message(response)}")
    try:
        rows = cast(list[Any], response.json()["choices"][0]["prompt_logprobs"])
        if len(rows) != len(prompt) + len(completion):
            raise ValueError(f"{len(rows)} log-probabilities for {len(prompt) + len(completion)} tokens")
        return [float(row[str(token)]["logprob"]) for row, token in zip(rows[len(prompt) :], completion, strict=True)]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise BackendError(f"{model} returned no usable log-probabilities ({error!r}).") from error


async def teacher_forced_logprobs(
    base_url: str,
    api_key: str,
    model: str,
    prompt_token_ids: Sequence[int],
    completion_token_ids: Sequence[int],
    *,
    transport: httpx.AsyncBaseTransport | None = None,
) -> list[float]:
    """Natural log-probability that `model` gives to each completion token after all before it, one a token."""
    if not prompt_token_ids or not completion_token_ids:
        raise AdapterError("A probe needs at least one prompt token and one completion token.")
    async with _client(base_url, api_key, PROBE_TIMEOUT_S, transport) as client:
        return await _logprobs(client, model, prompt_token_ids, completion_token_ids)


def read_reference(adapter_dir: Path) -> dict[str, Any]:
    """`reference.json` of an adapter. Raises `AdapterError` where it is missing or proves nothing."""
    try:
        reference = dict(read_json(adapter_dir / "reference.json"))
        probes, tolerance = reference["probes"], float(reference["tolerance"])
        for item in probes:
            count = len(item["completion_token_ids"])
            if not (
                len(item["logprobs_tuned"]) == len(item["logprobs_base"]) == count > 0 < len(item["prompt_token_ids"])
            ):
                raise ValueError("a probe has lists of different lengths")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"{adapter_dir / 'reference.json'} can't be used ({error!r}): train it again.") from error
    if not probes or tolerance <= 0:
        raise AdapterError(f"{adapter_dir / 'reference.json'} holds no probes: train the adapter again.")
    return reference


def _distance(left: Sequence[Sequence[float]], right: Sequence[Sequence[float]]) -> float:
    """Mean over probes of the mean absolute difference a token (the reference's own rule)."""
    each = [sum(abs(a - b) for a, b in zip(x, y, strict=True)) / len(x) for x, y in zip(left, right, strict=True)]
    return sum(each) / len(each)


def judge(
    model: str,
    reference: dict[str, Any],
    live_tuned: Sequence[Sequence[float]],
    live_base: Sequence[Sequence[float]],
    tolerance: float,
    seconds: float = 0.0,
) -> ProbeReport:
    """Compare live log-probabilities with the reference; pure. NaN never passes."""
    tuned = [item["logprobs_tuned"] for item in reference["probes"]]
    base = [item["logprobs_base"] for item in reference["probes"]]
    distance_tuned, distance_base = _distance(live_tuned, tuned), _distance(live_tuned, base)
    effect, expected = _distance(live_tuned, live_base), _distance(tuned, base)
    if not expected > tolerance:
        reason = (
            f"the reference differs from the base by {expected:.4f} nats a token, no more than the tolerance "
            f"{tolerance:.4f}, so it proves nothing; train longer."
        )
    elif not distance_tuned <= tolerance:
        reason = (
            f"its answers are {distance_tuned:.4f} nats a token away from the reference (allowed: {tolerance:.4f}; "
            f"the base is {expected:.4f} away): wrong, stale or damaged adapter; load it again under a new name."
        )
    elif not effect >= MIN_EFFECT_SHARE * expected:
        reason = (
            f"it differs from the served base by only {effect:.4f} nats a token ({expected:.4f} expected): "
            "the adapter is not applied; restart vLLM and load it again."
        )
    elif not distance_tuned < distance_base:
        reason = f"it is nearer to the base ({distance_base:.4f}) than to the adapter ({distance_tuned:.4f})."
    else:
        reason = ""
    tokens = sum(len(item) for item in tuned)
    return ProbeReport(
        model, not reason, reason, distance_tuned, distance_base, effect, expected, tolerance, tokens, seconds
    )


async def probe(
    base_url: str,
    api_key: str,
    model: str,
    base_model: str,
    reference: dict[str, Any],
    *,
    tolerance: float | None = None,
    max_probes: int = 8,
    transport: httpx.AsyncBaseTransport | None = None,
) -> ProbeReport:
    """Ask `model` and `base_model` for the reference's completions and compare; also warms the prompt cache.

    `reference` is what `read_reference` returns; `tolerance` (nats a token) overrides its own. At most `max_probes`
    of its probes are asked, one at a time, so that a probe never slows a server down for others.
    """
    begun = monotonic()
    used = {**reference, "probes": reference["probes"][:max_probes]}
    live: dict[str, list[list[float]]] = {model: [], base_model: []}
    async with _client(base_url, api_key, PROBE_TIMEOUT_S, transport) as client:
        for item in used["probes"]:
            for name, found in live.items():
                found.append(await _logprobs(client, name, item["prompt_token_ids"], item["completion_token_ids"]))
    allowed = float(reference["tolerance"]) if tolerance is None else tolerance
    return judge(model, used, live[model], live[base_model], allowed, monotonic() - begun)
