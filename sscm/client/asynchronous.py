"""The client for programs that do other things while they wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Self, TypeVar, Unpack

import httpx

from sscm.client import requests
from sscm.client.about import Embedding, Index, Model, Readiness, Reload
from sscm.client.answers import Answers, Hit, I, Item, Problem
from sscm.client.attempts import Attempts
from sscm.client.call import Call
from sscm.client.connection import ATTEMPTS, TIMEOUT_S, URL, Connection
from sscm.client.query import Filters, Query
from sscm.client.requests import File

T = TypeVar("T")


class AsyncClient:
    """As :class:`Client`, its methods awaited: many calls of one event loop may be under way at once.

    Args:
        url: where the service is; it may lie below a path.
        api_key: key, for a service that wants one; None for that of the environment variable ``SSCM_API_KEY``, if any.
        timeout_s: longest wait for one answer, seconds.
        attempts: requests in all for one call.
    """

    def __init__(
        self, url: str = URL, *, api_key: str | None = None, timeout_s: float = TIMEOUT_S, attempts: int = ATTEMPTS
    ) -> None:
        self._connection = Connection(url, api_key, timeout_s, attempts)
        self._http = httpx.AsyncClient(**self._connection.options())
        self._sleep = asyncio.sleep

    @property
    def url(self) -> str:
        """Where the service is."""
        return self._connection.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def search(self, **query: Unpack[Query]) -> Answers[Hit]:
        """As :meth:`Client.search`."""
        return await self._ask(requests.search(**query))

    async def search_image(
        self,
        files: File | Sequence[File],
        *,
        modality: str,
        target: str | Sequence[str],
        limit: int | None = None,
        min_score: float | None = None,
        **filters: Unpack[Filters],
    ) -> Answers[Hit]:
        """As :meth:`Client.search_image`."""
        call = await asyncio.to_thread(  # it reads files
            requests.search_image,
            files,
            modality=modality,
            target=target,
            limit=limit,
            min_score=min_score,
            **filters,
        )
        return await self._ask(call)

    async def batch(self, searches: Sequence[Query]) -> list[Answers[Hit] | Problem]:
        """As :meth:`Client.batch`."""
        return await self._ask(requests.batch(searches))

    async def embed(self, files: File | Sequence[File], *, modality: str) -> Embedding:
        """As :meth:`Client.embed`."""
        return await self._ask(await asyncio.to_thread(requests.embed, files, modality=modality))

    async def item(self, item_id: str) -> Item:
        """As :meth:`Client.item`."""
        return await self._ask(requests.item(item_id))

    async def preview(self, item_id: str, modality: str) -> bytes:
        """As :meth:`Client.preview`."""
        return await self._ask(requests.preview(item_id, modality))

    async def similar(
        self,
        item_id: str,
        *,
        modality: str,
        target: str | None = None,
        limit: int | None = None,
        min_score: float | None = None,
    ) -> Answers[Hit]:
        """As :meth:`Client.similar`."""
        call = requests.similar(item_id, modality=modality, target=target, limit=limit, min_score=min_score)
        return await self._ask(call)

    async def browse(
        self, *, limit: int | None = None, sample: int | None = None, **filters: Unpack[Filters]
    ) -> Answers[Item]:
        """As :meth:`Client.browse`."""
        return await self._ask(requests.browse(limit=limit, sample=sample, **filters))

    async def pages(self, first: Answers[I]) -> AsyncIterator[Answers[I]]:
        """As :meth:`Client.pages`, in an ``async for`` loop."""
        answers = first
        yield answers
        while answers.next is not None:
            answers = await self._ask(requests.page(answers.next))
            yield answers

    async def index(self) -> Index:
        """As :meth:`Client.index`."""
        return await self._ask(requests.index())

    async def model(self) -> Model:
        """As :meth:`Client.model`."""
        return await self._ask(requests.model())

    async def ready(self) -> Readiness:
        """As :meth:`Client.ready`."""
        return await self._ask(requests.ready())

    async def reload(self) -> Reload:
        """As :meth:`Client.reload`."""
        return await self._ask(requests.reload())

    async def _ask(self, call: Call[T]) -> T:
        attempts = Attempts(self._connection, call)
        headers = {"X-Request-ID": attempts.request_id}
        while True:
            try:
                response = await self._http.request(call.method, call.path, headers=headers, **call.content)
            except httpx.HTTPError as error:
                wait = attempts.after_failure(error)
            else:
                later = attempts.after(response)
                if later is None:
                    return call.read(response, self.url, attempts.named)
                wait = later
            await self._sleep(wait)
