"""A JSON body read by its model at once, instead of as FastAPI's parameter.

FastAPI parses the body into dicts, its content type as an e-mail header, and then validates: for a question that takes
longer than the validation itself (decision 0012). Same refusals (422 with the places), same description in OpenAPI.
"""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

_Model = TypeVar("_Model", bound=BaseModel)


async def read_body(request: Request, model: type[_Model]) -> _Model:
    """The body as `model`. Raises `RequestValidationError`."""
    try:
        return model.model_validate_json(await request.body() or b"null")
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in found]) from error


def described(model: type[BaseModel], examples: dict[str, Any]) -> dict[str, Any]:
    """`openapi_extra` of a route that calls `read_body`; `model` has no models inside."""
    content = {"schema": model.model_json_schema(), "examples": examples}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}
