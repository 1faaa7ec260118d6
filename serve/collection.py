"""Answers as GeoJSON: items come as JSON from the shards and are put together without being read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from serve.editions import Edition


def collection(
    edition: Edition,
    items: Sequence[bytes],
    matched: int,
    *,
    target: str | Sequence[str] | None = None,
    lost: Sequence[int] = (),
    links: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    """A FeatureCollection that says which generation and model it comes from.

    Args:
        edition: what answered.
        items: STAC Items as JSON, in order.
        matched: how many there are in all.
        target: modality or modalities searched.
        lost: numbers of the shards that did not answer; ``sscm.complete`` is false where there are any.
        links: to the next page.
    """
    about: dict[str, Any] = {
        "generation": edition.generation,
        "model": {name: edition.model[name] for name in ("name", "fingerprint")},
        "target": target,
        "simulated": edition.simulated,
        "complete": not lost,
    }
    if lost:
        about["shards_lost"] = list(lost)
    rest = {"numberMatched": matched, "numberReturned": len(items), "links": list(links), "sscm": about}
    return b'{"type":"FeatureCollection","features":[%b],%b' % (b",".join(items), orjson.dumps(rest)[1:])
