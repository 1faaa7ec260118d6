"""What ``sscm search`` does: one query, its answers as table, GeoJSON or ids, and kept in a folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from sscm.client.answers import Answers, Hit
from sscm.client.query import Filters, Query
from sscm.client.saving import require_empty, save_answers
from sscm.client.synchronous import Client
from sscm.client.table import print_answers
from sscm.config import SearchConfig
from sscm.errors import QueryError


def search(files: Sequence[str], config: SearchConfig) -> Answers[Hit]:
    """Ask a service and show what it answers.

    Args:
        files: the image to search by; none where the settings say by what else.
        config: settings.

    Raises:
        QueryError: not exactly one of files, id, examples and vector is given.
        ServiceError: the service cannot be asked, or refuses.
        WorkspaceError: the folder to save to holds something, or cannot be written.
    """
    ways = {"files": files, "--id": config.id, "--like": config.like, "--vector": config.vector}
    given = [name for name, value in ways.items() if value]
    if len(given) != 1:
        seen = " and ".join(given) if given else "nothing to search by"
        raise QueryError(
            f"{seen} given; expected one of files, --id, --like and --vector (a flag of several values is repeated: "
            "--like a --like b)"
        )
    if config.save is not None:
        require_empty(config.save)
    with Client(config.url, api_key=config.api_key) as client:
        answers = _ask(client, files, config)
        missing = save_answers(answers, config.save, client) if config.save is not None else 0
    _show(answers, config)
    if missing:
        print(f"{missing} answers have no picture", file=sys.stderr)
    return answers


def _ask(client: Client, files: Sequence[str], config: SearchConfig) -> Answers[Hit]:
    target = config.target[0] if len(config.target) == 1 else config.target
    filters: Filters = {
        "bbox": config.bbox,
        "datetime": config.datetime,
        "ids": config.ids or None,
        "labels": config.labels or None,
        "split": config.split,
        "filter": config.filter,
    }
    modality = config.modality
    if files:
        if modality is None:
            raise QueryError("modality is missing; expected what the image was taken by, such as --modality s1")
        return client.search_image(
            files, modality=modality, target=target, limit=config.limit, min_score=config.min_score, **filters
        )
    query: Query = {
        "target": target,
        "modality": modality,
        "limit": config.limit,
        "min_score": config.min_score,
        "id": config.id,
        "positives": config.like or None,
        "negatives": config.unlike or None,
        "vector": None if config.vector is None else _vector(config.vector),
        **filters,
    }
    return client.search(**query)


def _vector(file: Path) -> list[float]:
    try:
        vector = np.load(file)  # never a pickle
    except (OSError, ValueError, EOFError) as error:
        raise QueryError(f"{file} cannot be read ({error}); expected an .npy file of one vector") from error
    if not isinstance(vector, np.ndarray) or vector.squeeze().ndim != 1 or vector.dtype.kind not in "fiu":
        seen = f"{vector.dtype} {list(vector.shape)}" if isinstance(vector, np.ndarray) else "an .npz"
        raise QueryError(f"{file} holds {seen}; expected one vector of numbers")
    return [float(number) for number in vector.squeeze()]


def _show(answers: Answers[Hit], config: SearchConfig) -> None:
    if config.format == "json":
        print(json.dumps(answers.collection, indent=1))
    elif config.format == "ids":
        for hit in answers:
            print(hit.id)
    else:
        print_answers(answers, Console())
