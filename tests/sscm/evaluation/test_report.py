import base64
import dataclasses
import re
from html.parser import HTMLParser

import pytest

from sscm.errors import WorkspaceError
from sscm.evaluation.collect import collect, places
from sscm.evaluation.exhibits import make_exhibits
from sscm.evaluation.gallery import gallery_rows
from sscm.evaluation.protocols import Direction
from sscm.evaluation.report import render_report, write_report

NAMES = ("s1", "s2")
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Tags with their attributes, cells with their titles, and whether everything was closed in order."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.cells, self.text, self._cell = [], [], [], [], None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "td":
            self._cell = dict(attrs)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "td":
            self._cell = None

    def handle_data(self, data):
        self.text.append(data)
        if self._cell is not None:
            self.cells.append((data.strip(), self._cell))


@pytest.fixture
def rows(archive, parts_of):
    parts = parts_of(archive, noise=0.3)
    images = collect(parts, ["test"], NAMES)["test"]
    return gallery_rows(archive, images, images, places(parts, ["test"]), NAMES, seed=0)


@pytest.fixture
def html(evaluation, bundle, rows):
    return render_report(evaluation, bundle, rows)


def test_nothing_is_fetched(html):
    page = Page(html)
    assert page.open == []
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert "<script" not in html


def test_every_figure_is_there_with_what_it_rests_on(html, evaluation):
    cells = [(text, cell) for text, cell in Page(html).cells if cell.get("title")]
    assert len(cells) == len(evaluation.figures)
    for figure in evaluation.figures:
        at = f"{figure.metric}@{figure.k}" if figure.k else figure.metric
        spoken = {"s1": "Sentinel-1", "s2": "Sentinel-2"}
        start = f"{at}, {figure.encoder}, {spoken[figure.query_modality]} → {spoken[figure.target_modality]}:"
        (found,) = [(text, cell) for text, cell in cells if cell["title"].startswith(start)]
        text, cell = found
        assert float(text) == pytest.approx(figure.value, abs=0.05 if figure.metric == "median_rank" else 0.000501)
        assert "48 queries of split test, 48 images of split test" in cell["title"]
        assert ("own pair left out" in cell["title"]) == figure.own_pair_excluded
        best = figure.value == evaluation.best(figure.direction, figure.metric, figure.k)
        assert ("best" in cell["class"].split()) == best


def test_headline(html, evaluation):
    direction = Direction("s1", "s2")
    trained = evaluation.figure("trained", direction, "partner_recall", 10).value
    untrained = evaluation.figure("untrained", direction, "partner_recall", 10).value
    assert f"<b>{trained:.1%}</b>" in html
    assert f"untrained {untrained:.1%}, chance 20.8%" in html


def test_facts_and_curves(html):
    assert "1·L_MIM + 0.25·L_MDE + 0.1·L_ISP, temperature 0.1" in html
    assert "resnet18, one a modality, 16-dimensional embeddings" in html
    assert "3 epochs, batch 32, seed 7, 12 s, 96 pairs" in html
    assert "Sentinel-1: VV VH" in html
    assert html.count("<svg") == 5


def test_gallery(html, rows):
    pictures = [a for tag, a in Page(html).tags if tag == "img"]
    assert len(pictures) == 2 * 8 * 11
    shown = [s for row in rows for s in (row.query, *row.answers)]
    for attributes, expected in zip(pictures, shown, strict=True):
        assert base64.b64decode(attributes["src"].removeprefix("data:image/jpeg;base64,")) == expected.picture
        assert expected.pair_id in attributes["alt"] and ", ".join(expected.labels) in attributes["alt"]
        assert (attributes.get("style") or "").endswith(expected.colour if expected.score is not None else "")


def test_simulated_images_are_called_so(html, evaluation, bundle, rows):
    assert "Simulated images." in html
    real = render_report(dataclasses.replace(evaluation, simulated=False), bundle, rows)
    assert "Simulated images." not in real


def test_without_gallery_record_and_partners(evaluation, bundle):
    figures = tuple(f for f in evaluation.figures if f.metric not in ("partner_recall", "median_rank"))
    bare = dataclasses.replace(evaluation, figures=figures, notes=("partners are elsewhere",))
    html = render_report(bare, dataclasses.replace(bundle, record={}), [])
    assert "<img" not in html and "<svg" not in html and 'class="card"' not in html
    assert "Note: partners are elsewhere." in html


def test_what_people_named_is_escaped(evaluation, bundle):
    html = render_report(dataclasses.replace(evaluation, model="<script>alert(1)</script>"), bundle, [])
    assert "<script" not in html


def test_written_whole_or_not_at_all(tmp_path, evaluation, bundle, rows, html):
    write_report(tmp_path / "new" / "report.html", evaluation, bundle, rows)
    assert (tmp_path / "new" / "report.html").read_text() == html
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["report.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError):
        write_report(tmp_path / "file" / "report.html", evaluation, bundle, rows)


def test_exhibits_are_inline_and_told_in_words(evaluation, bundle, archive, parts_of):
    images = collect(parts_of(archive, noise=0.3), ["test"], NAMES)["test"]
    titles = {"s1": "Sentinel-1", "s2": "Sentinel-2"}
    exhibits = make_exhibits({"trained": (images, images)}, titles, evaluation.protocol, 0)
    html = render_report(evaluation, bundle, [], exhibits)
    test_nothing_is_fetched(html)
    pictures = [attributes for tag, attributes in Page(html).tags if tag == "svg"]
    assert len(pictures) == 5 + sum(len(e.panels) for e in exhibits)
    assert all(p["role"] == "img" and p["aria-label"] for p in pictures)
    for exhibit in exhibits:
        assert exhibit.heading in html and all(p.title in html for p in exhibit.panels)
