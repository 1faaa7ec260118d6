"""The site builds without a complaint, has every page, and asks nothing of the network."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from tests.docs.commands import ROOT
from tests.plugins.browser import chromium

ZENSICAL = Path(sys.executable).with_name("zensical")


def build(folder, strict="--strict"):
    """Build the site of a copy of the pages."""
    return subprocess.run(
        [str(ZENSICAL), "build", "--clean", strict], cwd=folder, capture_output=True, text=True, timeout=120
    )


def copied(folder):
    shutil.copy(ROOT / "mkdocs.yml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = copied(tmp_path_factory.mktemp("site"))
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / yaml.safe_load((folder / "mkdocs.yml").read_text())["site_dir"]


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


class Loaded(HTMLParser):
    """What a page loads by itself, and where its links lead."""

    def __init__(self):
        super().__init__()
        self.loads, self.links, self.ids = [], [], set()

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if "id" in found:
            self.ids.add(found["id"])
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        elif tag == "link" and found.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(found.get("href"))
        elif found.get("src"):
            self.loads.append(found["src"])


def parsed(path):
    reader = Loaded()
    reader.feed(path.read_text("utf-8"))
    return reader


def test_every_page_and_picture_is_in_it_and_no_script_of_ours(site):
    pages = {page.with_suffix(".html").name for page in (ROOT / "docs").glob("*.md")}
    assert pages <= {path.name for path in site.glob("*.html")}
    assert {path.name for path in (ROOT / "docs").glob("*.png")} <= {path.name for path in site.glob("*.png")}
    assert not list(site.rglob("*.py"))
    assert "sscm ingest" in (site / "search.js").read_text()  # what the search searches, also from a disk


def test_nothing_is_loaded_from_elsewhere_and_what_is_loaded_is_there(site):
    for path in site.glob("*.html"):
        for place in parsed(path).loads:
            assert not re.match(r"(\w+:)?//", place), f"{path.name} loads {place}"
            if not place.startswith("data:") and path.name != "404.html":
                assert (path.parent / place.partition("?")[0]).exists(), f"{path.name} loads {place}"
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import\s*)[\"']?(\w+:)?//", path.read_text()), path


def test_links_within_the_site_lead_somewhere(site):
    pages = {path.name: parsed(path) for path in site.glob("*.html")}
    looked = 0
    for name, page in pages.items():
        for link in page.links:
            place, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", link) or name == "404.html":
                continue
            target = place.removeprefix("./").removeprefix("../") or name
            assert target in pages or (site / target).exists(), f"{name} → {link}"
            if anchor and target in pages:
                assert anchor in pages[target].ids or anchor.startswith("__"), f"{name} → {link}"
            looked += 1
    assert looked > 500


@pytest.mark.parametrize("text", ["[a](gone.md)", "[a](search.md#gone)"])
def test_a_link_that_leads_nowhere_fails_the_build(tmp_path, text):
    folder = copied(tmp_path)
    with (folder / "docs/page.md").open("a") as file:
        file.write(f"\n{text}\n")
    done = build(folder)
    assert done.returncode != 0
    assert "does not exist" in done.stdout + done.stderr


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_pages_fit_a_screen_and_search_works_from_a_disk(site, browser, width, height):
    context = browser.new_context(viewport={"width": width, "height": height}, offline=True)
    page, asked, failed = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    for name in ("index", "tutorial", "scale", "http-reference"):
        page.goto(f"file://{site}/{name}.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is wider than {width}"
        assert all(page.evaluate("[...document.images].map(image => image.naturalWidth > 0)")), name
    box = page.get_by_placeholder("Search")
    for _ in range(50):  # the page listens for the keys when its script has run
        page.keyboard.press("Control+k")
        page.wait_for_timeout(200)
        if box.is_visible():
            break
    box.fill("disruption budgets")
    page.get_by_role("option", name="On Kubernetes").wait_for(timeout=20_000)
    context.close()
    assert not failed
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
