"""The report: one HTML file that needs nothing else, with figures, curves and a gallery."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from sscm.evaluation.curves import training_curves
from sscm.evaluation.exhibits import Exhibit
from sscm.evaluation.figures import TRAINED, Evaluation, Figure
from sscm.evaluation.gallery import OTHER, PARTNER, RELEVANT, GalleryRow, Shown
from sscm.evaluation.protocols import Direction
from sscm.evaluation.protocols import metric as metric_named
from sscm.model.bundle import Bundle
from sscm.sensors import Modality
from sscm.workspace import open_workspace

TEMPLATE = "report.html.jinja"


def write_report(
    path: Path, evaluation: Evaluation, bundle: Bundle, rows: Sequence[GalleryRow], exhibits: Sequence[Exhibit] = ()
) -> None:
    """Write the report page whole or not at all; arguments as of :func:`render_report`.

    Raises:
        WorkspaceError: it cannot be written.
    """
    target = path.expanduser().absolute()
    html = render_report(evaluation, bundle, rows, exhibits)
    open_workspace(str(target.parent)).write_bytes(html.encode(), target.name)


def render_report(
    evaluation: Evaluation, bundle: Bundle, rows: Sequence[GalleryRow], exhibits: Sequence[Exhibit] = ()
) -> str:
    """The report page.

    Args:
        evaluation: the figures.
        bundle: the model, for its settings and the record of its training.
        rows: the gallery.
        exhibits: sections of panels beside the figures.

    Returns:
        HTML in which style, curves and pictures are inline: opening it asks nothing of any server.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sscm.evaluation", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    titles = {m.name: m.title for m in bundle.modalities}
    names = " and ".join(titles.values()) if len(titles) < 3 else ", ".join(titles.values())
    return environment.get_template(TEMPLATE).render(
        heading=f"Retrieval across {names}",
        subtitle=f"Model {evaluation.model}, {evaluation.created[:10]}",
        evaluation=evaluation,
        cards=_cards(evaluation, titles),
        facts=_facts(evaluation, bundle),
        heads=_heads(evaluation),
        blocks=[_block(evaluation, direction, titles) for direction in evaluation.directions],
        curves=training_curves(bundle.record.get("epochs", ())),
        exhibits=exhibits,
        galleries=_galleries(rows, titles),
        answers=max((len(row.answers) for row in rows), default=0),
        composites=" ".join(filter(None, map(_composite, bundle.modalities))),
        colours={"partner": PARTNER, "relevant": RELEVANT, "other": OTHER},
        footer=(
            f"sscm {evaluation.code_version}, {evaluation.created}; model {evaluation.model}, "
            f"fingerprint {evaluation.fingerprint}; index generation {evaluation.generation}"
        ),
    )


def _cards(evaluation: Evaluation, titles: Mapping[str, str]) -> list[dict[str, str]]:
    """The protocol's headline: partner recall, or the metric of a published protocol, direction by direction."""
    name, k = evaluation.protocol.headline, evaluation.protocol.headline_k
    cards = []
    for direction in evaluation.directions:
        found = {encoder: evaluation.figure(encoder, direction, name, k) for encoder in evaluation.encoders}
        trained = found.get(TRAINED)
        if trained is None:
            continue
        spoken = name.replace("_", " ").replace("f1", "F1") + (f"@{k}" if k else "")
        text = f"{spoken} of {trained.queries:,} queries in {trained.archive:,}"
        if name == "partner_recall":
            text = f"of {trained.queries:,} queries have their own partner among the first {k} of {trained.archive:,}"
        beside = ", ".join(f"{encoder} {f.value:.1%}" for encoder, f in found.items() if f and encoder != TRAINED)
        cards.append(
            {"title": _spoken(direction, titles), "value": f"{trained.value:.1%}", "text": text, "beside": beside}
        )
    return cards


def _facts(evaluation: Evaluation, bundle: Bundle) -> list[tuple[str, str]]:
    """What the figures rest on."""
    config: Mapping[str, Any] = bundle.record.get("config", {})
    objective: Mapping[str, Any] = config.get("objective", {})
    facts = [
        ("Protocol", evaluation.protocol.text),
        ("Images", evaluation.sizes_text),
        ("Model", f"{bundle.name}, trained on split {bundle.split} with sscm {bundle.code_version}"),
        ("Backbone", f"{bundle.config.backbone}, one a modality, {bundle.dimension}-dimensional embeddings"),
        ("Bands", "; ".join(f"{m.title}: {' '.join(m.band_names)}" for m in bundle.modalities)),
    ]
    if objective:
        weights = " + ".join(f"{objective[f'w_{name}']:g}·L_{name.upper()}" for name in ("mim", "mde", "isp"))
        facts.append(("Objective", f"{weights}, temperature {objective['temperature']:g}"))
    if bundle.record.get("epochs"):
        last = bundle.record["epochs"][-1]
        training = f"{last['epoch']} epochs"
        if "batch_size" in config:
            training += f", batch {config['batch_size']}, seed {config['seed']}"
        if "seconds" in bundle.record:
            training += f", {bundle.record['seconds']:,.0f} s"
        if "train_pairs" in bundle.record:
            training += f", {bundle.record['train_pairs']:,} pairs"
        facts.append(("Training", training))
    return facts


def _heads(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Metrics of the table, each with the k it was measured at."""
    grouped = itertools.groupby(evaluation.columns, key=lambda column: column[0])
    return [{"metric": metric_named(name), "ks": [k for _, k in columns]} for name, columns in grouped]


def _block(evaluation: Evaluation, direction: Direction, titles: Mapping[str, str]) -> dict[str, Any]:
    """The table's rows of one direction."""
    rows = []
    for encoder in evaluation.encoders:
        cells = []
        previous = None
        for name, k in evaluation.columns:
            figure = evaluation.figure(encoder, direction, name, k)
            cell = {"text": "", "title": "", "best": False, "first": name != previous}
            previous = name
            if figure is not None:
                cell["text"] = f"{figure.value:.1f}" if name == "median_rank" else f"{figure.value:.3f}"
                cell["best"] = figure.value == evaluation.best(direction, name, k)
                cell["title"] = _meaning(figure, titles)
            cells.append(cell)
        rows.append({"encoder": encoder, "cells": cells})
    return {"direction": str(direction), "rows": rows}


def _meaning(figure: Figure, titles: Mapping[str, str]) -> str:
    """All that one must know to compare a figure."""
    at = f"@{figure.k}" if figure.k else ""
    text = (
        f"{figure.metric}{at}, {figure.encoder}, {_spoken(figure.direction, titles)}: {figure.queries:,} queries of "
        f"split {figure.query_split}, {figure.archive:,} images of split {figure.archive_split}"
    )
    if figure.query_split == figure.archive_split and metric_named(figure.metric).goal:
        text += ", own pair left out" if figure.own_pair_excluded else ", own pair kept in"
    return text


def _galleries(rows: Sequence[GalleryRow], titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """Gallery rows by direction, pictures as base64."""
    result = []
    for direction, members in itertools.groupby(rows, key=lambda row: row.direction):
        shown = [[_inline(picture) for picture in (row.query, *row.answers)] for row in members]
        result.append({"title": _spoken(direction, titles), "rows": shown})
    return result


def _inline(shown: Shown) -> dict[str, Any]:
    labels = ", ".join(shown.labels) or "no labels"
    return {
        "picture": base64.b64encode(shown.picture).decode() if shown.picture else None,
        "title": f"{shown.pair_id}: {labels}",
        "score": shown.score,
        "colour": shown.colour,
    }


def _spoken(direction: Direction, titles: Mapping[str, str]) -> str:
    return f"{titles[direction.query]} → {titles[direction.target]}"


def _composite(modality: Modality) -> str:
    """How a modality's pictures are made, as :func:`sscm.archive.previews.render` makes them."""
    common = {band.common_name for group in modality.groups for band in group.bands}
    if {"vv", "vh"} <= common and modality.groups[0].unit == "dB":
        return f"{modality.title} is shown as red VV, green VH, blue VV − VH."
    if {"red", "green", "blue"} <= common:
        return f"{modality.title} is shown in stretched true colour."
    return ""
