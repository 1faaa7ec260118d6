"""The client that waits for its answers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
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


class Client:
    """Asks an sscm service; one connection serves many calls, and threads may share a client.

    A call is sent again, after a wait, where the service is overloaded (429, 503) or the connection fails: a bounded
    number of times, for about a minute at most. Every method raises:

    * :class:`sscm.errors.ServiceError` where no service answers, or it refuses. The message has the service's own
      words and the request's id, which the service's log has, too.
    * :class:`sscm.errors.QueryError` for what need not be asked: unknown filters, numbers that are not finite.

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
        self._http = httpx.Client(**self._connection.options())
        self._sleep = time.sleep

    @property
    def url(self) -> str:
        """Where the service is."""
        return self._connection.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def search(self, **query: Unpack[Query]) -> Answers[Hit]:
        """Search by an item (``id``), an embedding (``vector``) or examples (``positives``, ``negatives``).

        Args:
            query: fields of :class:`Query`, filters among them.
        """
        return self._ask(requests.search(**query))

    def search_image(
        self,
        files: File | Sequence[File],
        *,
        modality: str,
        target: str | Sequence[str],
        limit: int | None = None,
        min_score: float | None = None,
        **filters: Unpack[Filters],
    ) -> Answers[Hit]:
        """Search by an image.

        Args:
            files: GeoTIFFs (one, or one a band with names that end in ``_B02.tif``), an ``.npz`` with an array a band
                group, an ``.npy``, or a PNG for 8-bit modalities; paths, or names with bytes.
            modality: what the image is of.
            target: modality searched, or several.
            limit: answers wanted, of each target.
            min_score: least score of an answer.
            filters: fields of :class:`Filters`.
        """
        call = requests.search_image(
            files, modality=modality, target=target, limit=limit, min_score=min_score, **filters
        )
        return self._ask(call)

    def batch(self, searches: Sequence[Query]) -> list[Answers[Hit] | Problem]:
        """Search by up to 64 queries at once; each has its answers, or its own problem, in its place."""
        return self._ask(requests.batch(searches))

    def embed(self, files: File | Sequence[File], *, modality: str) -> Embedding:
        """The embedding of an image; its ``vector`` can be searched by."""
        return self._ask(requests.embed(files, modality=modality))

    def item(self, item_id: str) -> Item:
        """One item by its id."""
        return self._ask(requests.item(item_id))

    def preview(self, item_id: str, modality: str) -> bytes:
        """A small picture of one image of an item, JPEG."""
        return self._ask(requests.preview(item_id, modality))

    def similar(
        self,
        item_id: str,
        *,
        modality: str,
        target: str | None = None,
        limit: int | None = None,
        min_score: float | None = None,
    ) -> Answers[Hit]:
        """Search by an item's image of one modality, for images of the same where no ``target`` is given."""
        call = requests.similar(item_id, modality=modality, target=target, limit=limit, min_score=min_score)
        return self._ask(call)

    def browse(
        self, *, limit: int | None = None, sample: int | None = None, **filters: Unpack[Filters]
    ) -> Answers[Item]:
        """Items without a query.

        Args:
            limit: items on a page.
            sample: draw so many at random instead.
            filters: fields of :class:`Filters`.
        """
        return self._ask(requests.browse(limit=limit, sample=sample, **filters))

    def pages(self, first: Answers[I]) -> Iterator[Answers[I]]:
        """A page of answers and all that follow it, each asked for when it is wanted.

        Args:
            first: what :meth:`search` or :meth:`browse` returned.
        """
        answers = first
        yield answers
        while answers.next is not None:
            answers = self._ask(requests.page(answers.next))
            yield answers

    def index(self) -> Index:
        """What is searched."""
        return self._ask(requests.index())

    def model(self) -> Model:
        """The model that embeds images."""
        return self._ask(requests.model())

    def ready(self) -> Readiness:
        """Whether the whole service answers; with what each part of it says."""
        return self._ask(requests.ready())

    def reload(self) -> Reload:
        """Have the service move to the index's current generation; wants the key of an administrator."""
        return self._ask(requests.reload())

    def _ask(self, call: Call[T]) -> T:
        attempts = Attempts(self._connection, call)
        headers = {"X-Request-ID": attempts.request_id}
        while True:
            try:
                response = self._http.request(call.method, call.path, headers=headers, **call.content)
            except httpx.HTTPError as error:
                wait = attempts.after_failure(error)
            else:
                later = attempts.after(response)
                if later is None:
                    return call.read(response, self.url, attempts.named)
                wait = later
            self._sleep(wait)
