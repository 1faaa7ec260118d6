"""The HTTP application of a gateway: its routes, and how errors are told."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, File, Form, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from serve.api import (
    GEOJSON,
    MAX_LIMIT,
    Collection,
    HttpProblem,
    Limit,
    MinScore,
    Problem,
    SearchRequest,
    explain,
    parse_filters,
    problem,
)
from serve.guard import Guard
from serve.metrics import CONTENT_TYPE
from serve.paging import Page, Wanted, read_page
from serve.reference import add_reference, describe_keys
from serve.upload import Upload
from sscm.errors import BandMismatchError, QueryError, SscmError
from sscm.version import code_version

if TYPE_CHECKING:
    from serve.gateway import Gateway

log = logging.getLogger("ray.serve")

PREVIEW_AGE_S = 3600
"""Seconds for which a browser may keep a preview."""

PAGE_POLICY = "default-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""What the page may load: its own script and style, and what this service answers; nothing from elsewhere."""

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


def build_api(gateway: Gateway) -> FastAPI:
    """The application.

    Args:
        gateway: what answers.
    """
    api = FastAPI(
        title="sscm",
        summary="Find satellite images across sensors",
        version=code_version(),
        docs_url=None,
        redoc_url=None,
        responses=_PROBLEMS,
    )
    _tell_errors(api)
    _add_search(api, gateway)
    _add_items(api, gateway)
    _add_operations(api, gateway)
    add_reference(api)
    if gateway.rules.keys is not None:
        describe_keys(api)
    api.add_middleware(
        Guard,
        metrics=gateway.metrics,
        deadline_s=gateway.deadline_s,
        max_body_bytes=gateway.max_upload_bytes,
        rules=gateway.rules,
        access=gateway.access,
        replica=gateway.replica,
        generation=lambda: gateway.served.generation,
    )
    return api


def _add_search(api: FastAPI, gateway: Gateway) -> None:
    @api.post("/v1/search", response_model=Collection, tags=["search"])
    async def search(request: SearchRequest) -> Response:
        """Search by an embedding, with an indexed item as example, or with several examples, wanted and unwanted.

        With an item, `modality` says which of its images is the example. Where `target` is the same modality the item
        itself is left out; across modalities it may answer. So with each of several examples.

        The link with `rel` next asks for the next page: the same body with the link's merged in. A page is of the
        generation of the index that it was first asked of; where another is served since, the token is refused.
        """
        page = read_page(request.limit, request.token, gateway.served.generation)
        wanted = Wanted(target=request.target, page=page, filters=request, least=request.min_score)
        if request.positives is not None:
            negatives = request.negatives or ()
            return _geojson(await gateway.search_by_examples(request.positives, negatives, request.modality, wanted))
        modality = gateway.served.modality(request.modality or "", "modality").name
        if request.id is not None:
            return _geojson(await gateway.search_by_id(request.id, modality, wanted))
        return _geojson(await gateway.search(gateway.given_vector(request.vector or ()), wanted))

    @api.post("/v1/search/image", response_model=Collection, tags=["search"])
    async def search_image(
        files: Annotated[list[UploadFile], File(description="GeoTIFFs, one .npz or .npy, or a PNG for 8-bit sensors")],
        modality: Annotated[str, Form(description="modality of the image")],
        target: Annotated[str, Form(description="modality of the images searched")],
        limit: Annotated[Limit, Form()] = 10,
        filters: Annotated[str | None, Form(description="JSON object: bbox, datetime, labels, filter, …")] = None,
        min_score: Annotated[MinScore | None, Form()] = None,
    ) -> Response:
        """Search by an image.

        Bands are told by name: a GeoTIFF's band descriptions, or one file a band, its name ending in `_B02.tif`. An
        `.npz` holds one array `[bands, rows, columns]` a band group, named after it.
        """
        restriction = parse_filters(filters)
        gateway.served.modality(target, "target")
        vector = await gateway.embed(await _uploads(files), modality)
        wanted = Wanted(target=target, page=Page(limit=limit), filters=restriction, least=min_score)
        return _geojson(await gateway.search(vector, wanted))

    @api.post("/v1/embed", tags=["search"])
    async def embed(
        files: Annotated[list[UploadFile], File(description="as for /v1/search/image")],
        modality: Annotated[str, Form(description="modality of the image")],
    ) -> dict[str, Any]:
        """The embedding of an image: `dimension` numbers of unit norm."""
        vector = await gateway.embed(await _uploads(files), modality)
        model = {name: gateway.served.model[name] for name in ("name", "fingerprint")}
        return {"modality": modality, "vector": vector.tolist(), "model": model}


def _add_items(api: FastAPI, gateway: Gateway) -> None:
    # An id may hold slashes: the longer routes come first.
    @api.get("/v1/items", response_model=Collection, tags=["items"])
    async def sample(sample: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="how many")] = 10) -> Response:
        """Items drawn at random, each as likely as any other."""
        return _geojson(await gateway.sample(sample))

    @api.get("/v1/items/{pair_id:path}/preview/{modality}", tags=["items"], response_class=Response)
    async def preview(pair_id: str, modality: str) -> Response:
        """A small picture of one image, JPEG."""
        picture = await gateway.preview(pair_id, modality)
        kept = {"Cache-Control": f"private, max-age={PREVIEW_AGE_S}"}  # by the browser: a shared cache asks for no key
        return Response(picture, media_type="image/jpeg", headers=kept)

    @api.get("/v1/items/{pair_id:path}/similar", response_model=Collection, tags=["items"])
    async def similar(
        pair_id: str, modality: str, target: str | None = None, limit: Limit = 10, min_score: MinScore | None = None
    ) -> Response:
        """Search with this item's image of `modality` as example; `target` is the same modality if not given."""
        wanted = Wanted(target=target or modality, page=Page(limit=limit), least=min_score)
        return _geojson(await gateway.search_by_id(pair_id, modality, wanted))

    @api.get("/v1/items/{pair_id:path}", tags=["items"])
    async def item(pair_id: str) -> Response:
        """One item, as STAC."""
        return _geojson((await gateway.find(pair_id)).item)


def _add_operations(api: FastAPI, gateway: Gateway) -> None:
    served = gateway.served
    page = (Path(__file__).parent / "web" / "index.html").read_text("utf-8")

    @api.get("/v1/index", tags=["about"])
    async def index() -> dict[str, Any]:
        """What is searched."""
        return {
            "generation": served.generation,
            "created": served.created,
            "items": sum(served.shard_rows),
            "shards": list(served.shard_rows),
            "modalities": [{"name": m.name, "title": m.title} for m in served.modalities],
            "dimension": served.dimension,
            "simulated": served.simulated,
            "model": {name: served.model[name] for name in ("name", "fingerprint")},
        }

    @api.get("/v1/model", tags=["about"])
    async def model() -> dict[str, Any]:
        """The model that embeds queries, with the bands that it wants."""
        return {**served.model, "modalities": [m.to_json() for m in served.modalities]}

    @api.get("/", include_in_schema=False)
    async def start() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_POLICY})

    @api.get("/livez", tags=["operation"])
    async def livez() -> PlainTextResponse:
        """This process is up."""
        return PlainTextResponse("alive")

    @api.get("/readyz", tags=["operation"])
    async def readyz() -> JSONResponse:
        """Every encoder and every index shard answers: 200, else 503."""
        found = await gateway.readiness()
        return JSONResponse(found, 200 if found["ready"] else 503)

    @api.get("/metrics", tags=["operation"])
    async def metrics() -> Response:
        """What this gateway counted, in Prometheus' text format."""
        return Response(gateway.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


def _tell_errors(api: FastAPI) -> None:
    @api.exception_handler(HttpProblem)
    async def told(request: Request, error: HttpProblem) -> Response:
        return problem(error.status, error.detail, error.headers)

    @api.exception_handler(SscmError)
    async def refused(request: Request, error: SscmError) -> Response:
        if isinstance(error, QueryError | BandMismatchError):
            return problem(400, str(error))
        log.exception("request failed", exc_info=error)
        return problem(500, f"{type(error).__name__}: {error}")

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


async def _uploads(files: list[UploadFile]) -> list[Upload]:
    return [Upload(file.filename or "upload", await file.read()) for file in files]


def _geojson(value: dict[str, Any]) -> JSONResponse:
    return JSONResponse(value, media_type=GEOJSON)
