"""Routes that search: by JSON, in batches, by an uploaded image; and that embed one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import orjson
from fastapi import FastAPI, File, Form, Request, UploadFile
from pydantic import ValidationError
from starlette.responses import Response

from serve.api import (
    GEOJSON,
    MAX_TARGETS,
    Batch,
    BatchRequest,
    Collection,
    HttpProblem,
    Limit,
    MinScore,
    SearchRequest,
    explain,
    parse_filters,
    problem_body,
    read_search,
)
from serve.paging import Page, Wanted, read_page
from serve.retrieval import Turn, given_vector
from serve.upload import Upload
from sscm.errors import QueryError

if TYPE_CHECKING:
    from serve.gateway import Gateway


def add_search(api: FastAPI, gateway: Gateway) -> None:
    """Add the routes.

    Bodies of JSON are read here, not by FastAPI, which takes several times as long.
    """

    @api.post("/v1/search", response_model=Collection, tags=["search"], openapi_extra={"x-body": "SearchRequest"})
    async def search(request: Request) -> Response:
        """Search by an embedding, with an indexed item as example, or with several examples, wanted and unwanted.

        With an item, `modality` says which of its images is the example. Where `target` is the same modality the item
        itself is left out; across modalities it may answer. So with each of several examples.

        The link with `rel` next asks for the next page: the same body with the link's merged in. A page is of the
        generation of the index that it was first asked of; where another is served since, the token is refused.
        """
        turn = await gateway.turn()
        return geojson(await _search(gateway, turn, read_search(await request.body())))

    @api.post("/v1/search/batch", response_model=Batch, tags=["search"], openapi_extra={"x-body": "BatchRequest"})
    async def search_batch(request: Request) -> Response:
        """Search several times at once, all in the same generation of the index.

        Each result is in its search's place: what `POST /v1/search` would answer, or the problem that it met, which
        leaves the others alone.
        """
        turn = await gateway.turn()
        try:
            searches = BatchRequest.model_validate_json(await request.body()).searches
        except ValidationError as error:
            raise QueryError(explain(error.errors())) from error

        async def one(body: dict[str, Any]) -> bytes:
            try:
                return await _search(gateway, turn, read_search(body))
            except QueryError as error:
                return orjson.dumps(problem_body(400, str(error)))
            except HttpProblem as error:
                return orjson.dumps(problem_body(error.status, error.detail))

        results = await asyncio.gather(*(one(body) for body in searches))
        return Response(b'{"results":[%b]}' % b",".join(results), media_type="application/json")

    @api.post(
        "/v1/search/image",
        response_model=Collection,
        tags=["search"],
        openapi_extra=_form_example(files=["query.npy"], modality="s1", target=["s1", "s2"], limit=5),
    )
    async def search_image(
        files: Annotated[list[UploadFile], File(description="GeoTIFFs, one .npz or .npy, or a PNG for 8-bit sensors")],
        modality: Annotated[str, Form(description="modality of the image", examples=["s1"])],
        target: Annotated[
            list[str],
            Form(
                min_length=1,
                max_length=MAX_TARGETS,
                description="modality of the images searched; may be repeated",
                examples=[["s2"]],
            ),
        ],
        limit: Annotated[Limit, Form()] = 10,
        filters: Annotated[str | None, Form(description="JSON object: bbox, datetime, labels, filter, …")] = None,
        min_score: Annotated[MinScore | None, Form()] = None,
    ) -> Response:
        """Search by an image.

        Bands are told by name: a GeoTIFF's band descriptions, or one file a band, its name ending in `_B02.tif`. An
        `.npz` holds one array `[bands, rows, columns]` a band group, named after it. `docs/uploads.md` of the project
        tells all that is read, how other sizes and projections are fitted, and what is refused.
        """
        turn = await gateway.turn()
        targets = tuple(dict.fromkeys(target))
        wanted = Wanted(targets=targets, page=Page(limit=limit), filters=parse_filters(filters), least=min_score)
        for name in targets:
            turn.edition.modality(name, "target")
        vector = await gateway.embed(turn, await _uploads(files), modality)
        return geojson(await gateway.retrieval.search(turn, vector, wanted))

    @api.post("/v1/embed", tags=["search"], openapi_extra=_form_example(files=["query.npy"], modality="s1"))
    async def embed(
        files: Annotated[list[UploadFile], File(description="as for /v1/search/image")],
        modality: Annotated[str, Form(description="modality of the image", examples=["s1"])],
    ) -> dict[str, Any]:
        """The embedding of an image: `dimension` numbers of unit norm."""
        turn = await gateway.turn()
        vector = await gateway.embed(turn, await _uploads(files), modality)
        model = {name: turn.edition.model[name] for name in ("name", "fingerprint")}
        return {"modality": modality, "vector": vector.tolist(), "model": model, "generation": turn.edition.generation}


def geojson(body: bytes) -> Response:
    """JSON of GeoJSON as answer."""
    return Response(body, media_type=GEOJSON)


def _form_example(**fields: Any) -> dict[str, Any]:
    """An example of a form, for the description."""
    return {"requestBody": {"content": {"multipart/form-data": {"example": fields}}}}


async def _search(gateway: Gateway, turn: Turn, request: SearchRequest) -> bytes:
    page = read_page(request.limit, request.token, turn.edition.generation)
    wanted = Wanted(targets=request.targets, page=page, filters=request, least=request.min_score)
    if request.positives is not None:
        negatives = request.negatives or ()
        return await gateway.retrieval.search_by_examples(turn, request.positives, negatives, request.modality, wanted)
    modality = turn.edition.modality(request.modality or "", "modality").name
    if request.id is not None:
        return await gateway.retrieval.search_by_id(turn, request.id, modality, wanted)
    return await gateway.retrieval.search(turn, given_vector(turn.edition, request.vector or ()), wanted)


async def _uploads(files: list[UploadFile]) -> list[Upload]:
    return [Upload(file.filename or "upload", await file.read()) for file in files]
