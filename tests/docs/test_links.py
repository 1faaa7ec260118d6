"""Links and pictures of the pages lead somewhere: within the repository, and for pages of the site within the site."""

import re

import pytest
import yaml

from tests.docs.commands import PAGES, ROOT

DOCS = ROOT / "docs"
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")


def prose(page):
    """A page without its code."""
    text = re.sub(r"^( *)```.*?^\1```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "`code`", text)


def anchors(page):
    """What a page's headings can be linked by."""
    text = re.sub(r"^( *)```.*?^\1```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    found = []
    for title in titles:
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "").lower()
        found.append(re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", plain).strip()))
    return found


def links(page):
    return [link for link in LINK.findall(prose(page)) if not re.match(r"[a-z]+:", link)]


def wrong(page):
    """Links of a page that lead nowhere."""
    found = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
        elif page.parent == DOCS and not target.is_relative_to(DOCS):
            found.append(f"{link} (the site has nothing outside docs/)")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    assert wrong(page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One two\n[a](gone.md) [b](#one-two) [c](#three) ![d](gone.png) `[e](code.md)` [f](https://x.org/)\n"
    )
    assert wrong(page) == ["gone.md", "#three", "gone.png"]


def nav_pages(entry):
    if isinstance(entry, str):
        return [entry]
    entries = entry if isinstance(entry, list) else list(entry.values())
    return [page for one in entries for page in nav_pages(one)]


def test_the_navigation_has_every_page_once():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    found = nav_pages(config["nav"])
    assert sorted(found) == sorted(page.name for page in DOCS.glob("*.md")), "mkdocs.yml, nav: a page more or less"


def test_every_picture_is_shown():
    shown = {link.rpartition("/")[2] for page in PAGES for link in links(page)}
    assert {picture.name for picture in DOCS.glob("*.png")} <= shown


def test_the_readme_leads_to_the_site_and_every_part_of_it():
    reached = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    for name in ("index.md", "tutorial.md", "operations.md", "security.md", "http-reference.md", "architecture.md"):
        assert DOCS / name in reached, f"README.md does not lead to docs/{name}"
