"""Threats, anonymous and key holder: whatever is sent to any path of the API, no answer is a fault of ours.

schemathesis draws calls from the gateway's own OpenAPI (valid ones and broken ones) against a gateway process with a
healthy stub model. Every answer: no 5xx; a documented status, content type and shape; errors are problem+json with the
id of `X-Request-ID`, and echo nothing of what was sent; every search that was answered with 200 is in the journal with
both halves. A second pass is an anonymous caller where the gateway is closed: nothing but the open paths answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import schemathesis
import schemathesis.openapi
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as with_seed
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.faults.gateways import journalled, make_index, running_gateway
from tests.faults.harness import Progress, Tally, quiet
from tests.gateway.kit import run_upstream

NAME, PROMISE, UNIT, FULL = "api-fuzz", "threats", "calls an operation", 1000
OPEN = ("/livez", "/readyz")
SEARCHES = ("/api/v1/search", "/v1/chat/completions")
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
_LONG_ENOUGH = 12  # characters of a text whose echo can't be chance


def run(
    cycles: int, seed: int, scratch: Path, progress: Progress = quiet, url: str = "", closed: bool = False
) -> Tally:
    """`cycles` calls of each operation. `url`: a server that runs already (planted bugs); `closed`: it wants a key."""
    tally = Tally()
    if url:
        _fuzz(url, cycles, seed, tally, progress, closed)
        return tally
    index = make_index()
    with run_upstream("model-a") as model:
        env = {
            "LLM_API_BASE": model.base, "LLM_MODEL_NAME": "m", "LLM_PROFILE": "llamacpp", "MULLE_LOG_LEVEL": "error",
            "MULLE_JOURNAL_MODE": "group", "MULLE_RATE_LIMIT_BAD_KEY": "1000000/minute",
            "MULLE_RATE_LIMIT_ADDRESS": "1000000/minute",
        }  # fmt: skip
        with running_gateway(scratch / "open", index, env) as gateway:
            answered = _fuzz(gateway.url, cycles, seed, tally, progress, closed=False)
            assert gateway.stop() == 0
            written = journalled(scratch / "open" / "journal")
            tally.check(not answered - written.responses.keys(), seed, "an answered search is not in the journal")
            tally.check(not written.doubled and not written.damage, seed, "the journal is not what was written")
            tally.counts["searches answered"] = len(answered)
        with running_gateway(scratch / "closed", index, {**env, "MULLE_LOOPBACK_SCOPES": ""}) as gateway:
            _fuzz(gateway.url, max(1, cycles // 4), seed + 1, tally, progress, closed=True)
    return tally


def _fuzz(url: str, cycles: int, seed: int, tally: Tally, progress: Progress, closed: bool) -> set[str]:
    """Ids of the searches that were answered with 200."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    answered: set[str] = set()
    operations = [result.ok() for result in schema.get_all_operations()]
    for number, operation in enumerate(operations):
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            _calls(operation, mode, cycles, seed, tally, closed, answered)
        progress(number + 1, len(operations), tally)
    return answered


def _calls(operation: Any, mode: Any, cycles: int, seed: int, tally: Tally, closed: bool, answered: set[str]) -> None:
    try:
        strategy = operation.as_strategy(generation_mode=mode)
    except Exception as error:  # an operation without parameters can't be called wrongly
        tally.counts["not drawn"] += 1
        tally.check("negative" in str(mode).lower(), seed, f"{operation.label}: {error}")
        return

    @with_seed(seed)
    @settings(
        max_examples=max(1, cycles // 2),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def one(case: Any) -> None:
        tally.counts["calls"] += 1
        response = case.call()
        for problem in violations(case, response, closed):
            tally.check(False, seed, f"{case.method} {operation.path}: {problem}; {case.as_curl_command()[:400]}")
        if response.status_code == 200 and operation.path in SEARCHES:
            answered.add(response.headers["x-request-id"][0])
        tally.counts[f"{response.status_code // 100}xx"] += 1

    try:
        one()
    except Exception as error:
        if type(error).__name__ in ("Unsatisfiable", "SkipTest"):
            tally.counts["not drawn"] += 1
        else:
            tally.check(False, seed, f"{operation.label}: {type(error).__name__}: {str(error)[:300]}")


def violations(case: Any, response: Any, closed: bool = False) -> list[str]:
    """What is wrong with one answer."""
    found: list[str] = []
    status = response.status_code
    if status >= 500:
        return [f"answered {status}: {response.text[:200]}"]
    request_id = (response.headers.get("x-request-id") or [""])[0]
    if len(request_id) != 26:
        found.append("no X-Request-ID")
    if closed and status not in (400, 401, 404, 405, 413, 415, 422, 429) and case.operation.path not in OPEN:
        found.append(f"answered {status} to a caller without a key")
    if status >= 400 and case.method != "HEAD":
        found += _problem(case, response, request_id)
    if status < 400 or status in (401, 404, 405):
        return found + (_conforms(case, response) if status < 400 else [])
    return found + _conforms(case, response)


def _problem(case: Any, response: Any, request_id: str) -> list[str]:
    kind = (response.headers.get("content-type") or [""])[0]
    if not kind.startswith("application/problem+json"):
        return [f"{response.status_code} is no problem+json but {kind}"]
    body = orjson.loads(response.content)
    found = [] if body.get("request_id") == request_id else ["the problem's request_id is not X-Request-ID"]
    if not body.get("detail") or not body.get("code") or body.get("status") != response.status_code:
        found.append("the problem does not say what to do")
    text = response.text
    found += [f"echoes {word!r}" for word in echoed(case.body) if word in text][:1]
    return found


def echoed(value: Any) -> Sequence[str]:
    """Texts of a body that are long enough to be recognised in an answer."""
    if isinstance(value, str):
        return [value] if len(value) >= _LONG_ENOUGH else []
    if isinstance(value, dict):
        return [word for inner in value.values() for word in echoed(inner)]
    return [word for inner in value for word in echoed(inner)] if isinstance(value, list) else []


def _conforms(case: Any, response: Any) -> list[str]:
    try:
        case.validate_response(response, checks=CHECKS)
    except FailureGroup as group:
        return [f"{type(one).__name__}: {str(one)[:200]}" for one in group.exceptions]
    return []
