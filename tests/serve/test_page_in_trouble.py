"""The page in a real browser when something goes wrong: what people are told, and what they can do about it."""

from __future__ import annotations

import io

import numpy as np
import pytest

from serve.guard import Rules
from sscm.keys import add_key
from tests.plugins.browser import chromium, visiting
from tests.plugins.service import serving

BY_RADAR = "#like=s1/id/pair_0005&by=s1&find=s2&n=10"


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def url(indexed, browser):
    with serving(indexed.workspace) as service:
        yield service.url


@pytest.fixture
def visit(browser, url):
    with visiting(browser, url) as made:
        yield made


def npy(pixels):
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    return {"name": "radar.npy", "mimeType": "application/octet-stream", "buffer": buffer.getvalue()}


def forgive(visit, *parts):
    """Take the browser's own lines on answers that were no success, of which each has one of some parts."""
    assert any(part in line for part in parts for line in visit.complaints)
    visit.complaints[:] = [line for line in visit.complaints if not any(part in line for part in parts)]


def told(visit, text):
    visit.page.locator("#problem", has_text=text).wait_for()
    assert visit.page.locator("#problem").get_attribute("role") == "alert"


def test_what_the_service_says_is_shown(visit):
    visit.open(BY_RADAR)
    visit.page.locator("#filters summary").click()
    visit.page.fill("#where", "country = ")
    visit.page.locator("#where").blur()
    told(visit, "filter")
    visit.press("Clear all filters")
    assert visit.page.locator("#problem").is_hidden()
    assert len(visit.ids()) == 10
    visit.page.fill("#id", "nowhere")
    visit.page.locator("#by-id button").click()
    told(visit, "'nowhere'")
    forgive(visit, "400", "404")


def test_files_that_are_no_image_are_told(visit):
    visit.open(BY_RADAR)
    bad = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image at all"}
    visit.page.set_input_files("#files", bad)
    told(visit, "notes.txt")
    assert visit.text("#example .lacks") == "no preview of these files"
    forgive(visit, "400")


def test_a_box_that_is_none_is_not_sent(visit):
    visit.open(BY_RADAR)
    bodies = visit.searched()
    visit.page.locator("#filters summary").click()
    visit.page.fill("#bbox", "20, 43, 21")
    visit.page.locator("#bbox").press("Enter")
    assert visit.page.locator("#bbox").evaluate("box => box.validationMessage").startswith("Four numbers")
    assert bodies == []


def test_where_nothing_passes_a_remedy_is_offered(visit):
    visit.open(BY_RADAR)
    visit.page.goto(f"{visit.url}/{BY_RADAR}&where=country+%3D+'Atlantis'")
    told(visit, "No image passes the filters; widen or clear them.")
    assert visit.ids() == []
    visit.press("Clear the filters")
    assert len(visit.ids()) == 10
    visit.page.goto(f"{visit.url}/{BY_RADAR}&least=1")
    told(visit, "176 images pass the filters, none with a similarity of 1 or more. Ask for less.")
    visit.press("Any similarity")
    assert len(visit.ids()) == 10


def test_a_random_image_of_none_is_told(visit):
    visit.open(BY_RADAR)
    visit.page.goto(f"{visit.url}/{BY_RADAR}&where=country+%3D+'Atlantis'")
    told(visit, "No image passes")
    visit.press("Random image")
    told(visit, "No image passes the filters; widen or clear them.")


def test_a_service_that_does_not_answer_is_asked_again(visit):
    visit.open(BY_RADAR)
    seen = visit.ids()
    visit.page.context.set_offline(True)
    visit.page.get_by_role("button", name="More answers").click()
    told(visit, "The service does not answer.")
    assert visit.ids() == seen
    visit.page.context.set_offline(False)
    visit.press("Try again")
    assert len(visit.ids()) == 20
    assert visit.page.locator("#problem").is_hidden()
    forgive(visit, "ERR_INTERNET_DISCONNECTED")


def test_a_service_that_stopped_is_told(browser, indexed):
    with serving(indexed.workspace) as service, visiting(browser, service.url) as visit:
        visit.open(BY_RADAR)
        service.stop()
        visit.page.get_by_role("button", name="Random image").click()
        told(visit, "again")
        visit.page.get_by_role("button", name="Try again").wait_for()
        forgive(visit, "503")


def test_answers_that_lack_a_shard_are_marked(browser, indexed, pair_factory):
    with serving(indexed.workspace, deadline_s=4.0) as service, visiting(browser, service.url) as visit:
        visit.open(BY_RADAR)
        service.shards[1].stop()
        visit.page.set_input_files("#files", npy(pair_factory(7).images["s1"]))
        told(visit, "These answers are incomplete: a part of the index (shard 1) did not answer.")
        assert len(visit.ids()) == 10
        assert visit.page.get_by_role("button", name="Search again").is_visible()


def test_a_key_is_asked_for_and_kept_for_the_tab(browser, indexed, tmp_path):
    file = str(tmp_path / "keys.json")
    secret = add_key(file, "visitor", "read")
    with serving(indexed.workspace, rules=Rules(keys=file)) as service, visiting(browser, service.url) as visit:
        visit.page.goto(f"{service.url}/{BY_RADAR}")
        visit.page.locator("#key-form").wait_for()
        assert visit.page.evaluate("document.activeElement.id") == "key"
        visit.page.keyboard.type("not this")
        visit.page.keyboard.press("Enter")
        visit.page.locator("#status", has_text="not known").wait_for()
        visit.page.locator("#key").fill(secret)
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_selector("#answers .card")
        visit.settle()
        pictures = visit.page.locator("#answers .pictures > .picture img")
        pictures.last.evaluate("image => image.decode()")
        assert pictures.evaluate_all("all => all.every(i => i.naturalWidth === 24 && i.src.startsWith('blob:'))")
        visit.page.reload()
        visit.page.wait_for_selector("#answers .card")
        assert visit.page.locator("#key-form").is_hidden()
        assert secret not in visit.page.url
        forgive(visit, "401")


def test_a_link_to_an_image_that_was_uploaded_elsewhere_says_so(visit, browser, url, pair_factory):
    visit.open(BY_RADAR)
    visit.page.set_input_files("#files", npy(pair_factory(7).images["s1"]))
    visit.page.wait_for_selector("#example .files")
    visit.settle()
    link = visit.page.evaluate("location.hash")
    seen = visit.ids()
    visit.press("Random image")
    visit.page.go_back()
    visit.page.wait_for_selector("#example .files")
    visit.settle()
    assert visit.ids() == seen  # this tab still has it
    with visiting(browser, url) as other:
        other.page.goto(f"{url}/{link}")
        told(other, "The link was made with an uploaded image, which links do not hold. Choose its files again.")
