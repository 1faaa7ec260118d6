"""The HTTP application of a gateway: its routes, and how errors are told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from serve.api import HttpProblem, Problem, explain, problem
from serve.description import describe
from serve.fast_path import FastPath
from serve.guard import Guard
from serve.item_routes import add_items
from serve.metrics import CONTENT_TYPE
from serve.pages import page_routes
from serve.reference import add_reference, describe_keys
from serve.search_routes import add_search
from sscm.errors import BandMismatchError, QueryError, SscmError
from sscm.version import code_version

if TYPE_CHECKING:
    from serve.gateway import Gateway

log = logging.getLogger("ray.serve")

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": meaning}
    for status, meaning in {
        400: "The request is wrong; the detail says how, and what would be right",
        401: "No API key, or one that is not known; only where keys are configured",
        403: "The API key's role does not suffice, or nobody may do this over the network",
        404: "No such item",
        408: "The body did not come within the deadline",
        413: "The body is too large",
        429: "Too many requests at a time; try again",
        503: "Overloaded, or parts are being restarted; try again",
        504: "Not answered within the deadline",
    }.items()
}

_NOT_READY: dict[str, Any] = {
    "description": "Some part does not answer; which, is told",
    "content": {"application/json": {"schema": {"type": "object"}}},
}
_REFUSED: dict[str, Any] = {"model": Problem, "description": "The current generation of the index cannot be served"}


def build_api(gateway: Gateway) -> FastAPI:
    """The application.

    Args:
        gateway: what answers.
    """
    api = _Api(
        title="sscm",
        summary="Find satellite images across sensors",
        version=code_version(),
        docs_url=None,
        redoc_url=None,
        responses=_PROBLEMS,
    )
    _tell_errors(api)
    add_search(api, gateway)
    add_items(api, gateway)
    _add_operations(api, gateway)
    api.include_router(page_routes(*gateway.tiles))
    add_reference(api)
    describe(api)
    if gateway.rules.keys is not None:
        describe_keys(api)
    often = [route for route in api.routes if isinstance(route, APIRoute) and route.path == "/v1/search"]
    routes = {("POST", route.path): route for route in often}

    def outermost(app: ASGIApp) -> ASGIApp:
        guard = Guard(
            FastPath(app, routes=routes, told=told),
            metrics=gateway.metrics,
            deadline_s=gateway.deadline_s,
            max_body_bytes=gateway.max_upload_bytes,
            rules=gateway.rules,
            access=gateway.access,
            replica=gateway.replica,
            generation=lambda: gateway.generation,
        )
        gateway.metrics.in_flight.show(lambda: guard.in_flight)
        return guard

    api.outermost = outermost
    return api


class _Api(FastAPI):
    """An application with something around all of it, FastAPI's own layers included, which take their time."""

    outermost: Callable[[ASGIApp], ASGIApp]

    def build_middleware_stack(self) -> ASGIApp:
        """What handles a request; Starlette asks for it once."""
        return self.outermost(super().build_middleware_stack())


def _add_operations(api: FastAPI, gateway: Gateway) -> None:
    @api.get("/v1/index", tags=["about"])
    async def index() -> dict[str, Any]:
        """What is searched."""
        edition = (await gateway.turn()).edition
        return {
            "generation": edition.generation,
            "created": edition.created,
            "code_version": edition.code_version,
            "items": sum(edition.shard_rows),
            "shards": list(edition.shard_rows),
            "modalities": [{"name": m.name, "title": m.title} for m in edition.modalities],
            "dimension": edition.dimension,
            "recall": edition.recall,
            "properties": edition.properties,
            "simulated": edition.simulated,
            "model": {name: edition.model[name] for name in ("name", "fingerprint")},
        }

    @api.get("/v1/model", tags=["about"])
    async def model() -> dict[str, Any]:
        """The model that embeds queries: the bands that it wants, how they are normalised, what it was trained on."""
        edition = (await gateway.turn()).edition
        return {**edition.model, "modalities": [m.to_json() for m in edition.modalities]}

    @api.post("/v1/admin/reload", tags=["operation"], responses={409: _REFUSED})
    async def reload() -> dict[str, Any]:
        """Move the service to the index's current generation: loaded everywhere first, no request fails for it.

        Where that takes longer than a request may, `loading` names the generation; ask again, or look at `/readyz`.
        """
        return await gateway.reload()

    @api.get("/livez", tags=["operation"], response_class=PlainTextResponse)
    async def livez() -> PlainTextResponse:
        """This process is up."""
        return PlainTextResponse("alive")

    @api.get("/readyz", tags=["operation"], responses={503: _NOT_READY})
    async def readyz() -> JSONResponse:
        """Every encoder and every index shard answers: 200, else 503."""
        found = await gateway.readiness()
        return JSONResponse(found, 200 if found["ready"] else 503)

    @api.get("/metrics", tags=["operation"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """What this gateway counted, in Prometheus' text format."""
        return Response(gateway.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


def told(error: Exception) -> Response | None:
    """The answer to an exception of ours; None where it is not one."""
    if isinstance(error, HttpProblem):
        return problem(error.status, error.detail, error.headers)
    if isinstance(error, QueryError | BandMismatchError):
        return problem(400, str(error))
    if isinstance(error, SscmError):
        log.error("request failed", exc_info=error)
        return problem(500, f"{type(error).__name__}: {error}")
    return None


def _tell_errors(api: FastAPI) -> None:
    async def answer(request: Request, error: Exception) -> Response:
        response = told(error)
        if response is None:
            raise error
        return response

    api.add_exception_handler(HttpProblem, answer)
    api.add_exception_handler(SscmError, answer)

    @api.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return problem(500, f"{type(error).__name__} in {request.url.path}; the server's log says more")

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return problem(400, explain(error.errors()))

    @api.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        detail = str(error.detail)
        if error.status_code == 404:
            detail = f"no route {request.url.path!r}; GET /docs lists them"
        if error.status_code == 405:
            detail = f"{request.method} is not allowed for {request.url.path!r}; GET /docs lists the routes"
        return problem(error.status_code, detail, dict(error.headers) if error.headers else None)
