"""Routes about single items: browsing them, one of them, its pictures, and what is similar to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import FastAPI, Query
from starlette.responses import Response

from serve.api import GEOJSON, MAX_LIMIT, Collection, ItemFilters, Limit, MinScore
from serve.paging import Page, Wanted, read_items_page
from serve.search_routes import geojson

if TYPE_CHECKING:
    from serve.gateway import Gateway

PREVIEW_AGE_S = 3600
"""Seconds for which a browser may keep a preview."""


def add_items(api: FastAPI, gateway: Gateway) -> None:
    """Add the routes."""

    # An id may hold slashes: the longer routes come first.
    @api.get("/v1/items", response_model=Collection, tags=["items"])
    async def items(asked: Annotated[ItemFilters, Query()]) -> Response:
        """Items that pass filters, in the order of the index, page by page; or so many of them drawn at random."""
        turn = await gateway.turn()
        filters = asked.filters()
        if asked.sample is not None:
            return geojson(await gateway.retrieval.sample(turn, filters, min(asked.sample, MAX_LIMIT)))
        page = read_items_page(asked.limit, asked.token, turn.edition.generation)
        return geojson(await gateway.retrieval.browse(turn, filters, page, asked.asked))

    @api.get(
        "/v1/items/{pair_id:path}/preview/{modality}",
        tags=["items"],
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}, "description": "The picture"}},
    )
    async def preview(pair_id: str, modality: str) -> Response:
        """A small picture of one image, JPEG."""
        picture = await gateway.preview(await gateway.turn(), pair_id, modality)
        kept = {"Cache-Control": f"private, max-age={PREVIEW_AGE_S}"}  # by the browser: a shared cache asks for no key
        return Response(picture, media_type="image/jpeg", headers=kept)

    @api.get("/v1/items/{pair_id:path}/similar", response_model=Collection, tags=["items"])
    async def similar(
        pair_id: str, modality: str, target: str | None = None, limit: Limit = 10, min_score: MinScore | None = None
    ) -> Response:
        """Search with this item's image of `modality` as example; `target` is the same modality if not given."""
        turn = await gateway.turn()
        turn.edition.modality(modality, "modality")
        wanted = Wanted(targets=(target or modality,), page=Page(limit=limit), least=min_score)
        return geojson(await gateway.retrieval.search_by_id(turn, pair_id, modality, wanted))

    @api.get(
        "/v1/items/{pair_id:path}",
        tags=["items"],
        response_class=Response,
        responses={200: {"content": {GEOJSON: {"schema": {"type": "object"}}}, "description": "The item"}},
    )
    async def item(pair_id: str) -> Response:
        """One item, as STAC."""
        found = await gateway.retrieval.find(await gateway.turn(), pair_id)
        return geojson(found.item)
