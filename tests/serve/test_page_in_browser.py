"""The page in a real browser, before the real gateway: what people do there, and what they see of it."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest

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


@pytest.fixture(scope="module")
def radar_file(pair_factory):
    buffer = io.BytesIO()
    np.save(buffer, pair_factory(7).images["s1"])
    return {"name": "radar.npy", "mimeType": "application/octet-stream", "buffer": buffer.getvalue()}


def test_the_first_visit_shows_answers_to_a_random_image(visit):
    visit.open()
    assert re.fullmatch(r"#like=s1%2Fid%2Fpair_\d{4}&by=s1&find=s2&n=15", visit.page.evaluate("location.hash"))
    assert visit.text("#found") == "Sentinel-2 images most like this Sentinel-1 image"
    assert visit.text("#status") == "15 of 176 images, the most alike first."
    assert len(visit.ids()) == 15
    assert visit.page.locator("#simulated").is_visible()
    assert "176 places by Sentinel-1 and Sentinel-2" in visit.text("#facts")
    card = visit.page.locator("#answers .card").first.inner_text()
    assert re.search(r"-?0\.\d{3}\n.*pair_\d{4}\n+44\.01° N, 2\d\.\d\d° E\n2018-", card, re.DOTALL)
    sizes = visit.page.locator("#answers .pictures > .picture img").evaluate_all("all => all.map(i => i.naturalWidth)")
    assert sizes == [24] * 15


def test_every_control_has_a_name(visit):
    visit.open(f"{BY_RADAR}&label=Pastures")
    nameless = visit.page.evaluate("""
      [...document.querySelectorAll("button, input, textarea, [role=button]")].filter((one) =>
        !(one.labels?.length || one.ariaLabel || one.textContent.trim() || one.title)).map((one) => one.outerHTML)
    """)
    assert nameless == []
    assert visit.page.locator("img:not([alt])").count() == 0


def test_random_images_and_images_by_id(visit):
    visit.open(BY_RADAR)
    bodies = visit.searched()
    visit.press("Random image")
    drawn = bodies[-1]["positives"][0]["id"]
    assert visit.text("#example .id") == drawn
    visit.page.fill("#id", "pair_0011")
    visit.page.locator("#by-id button").click()
    visit.settle()
    assert bodies[-1] == {"positives": [{"id": "pair_0011", "modality": "s1"}], "target": ["s2"], "limit": 10}
    assert visit.text("#example .id") == "pair_0011"
    assert visit.page.locator("#example .picture").count() == 2  # the place's other image, too


def test_an_uploaded_image_is_shown_and_refined_by(visit, radar_file):
    visit.open(BY_RADAR)
    bodies = visit.searched()
    visit.page.set_input_files("#files", radar_file)
    visit.page.wait_for_selector("#example .files")
    visit.settle()
    assert visit.text("#example .files") == "radar.npy"
    drawn = visit.page.locator("#example img").evaluate("i => [i.naturalWidth, i.src.slice(0, 21)]")
    assert drawn == [24, "data:image/png;base64"]
    assert visit.text("#found") == "Sentinel-2 images most like the uploaded Sentinel-1 image"
    assert visit.page.locator("#unlinked").is_visible()
    [only] = bodies[-1]["positives"]
    assert len(only["vector"]) == 16
    liked = visit.ids()[2]
    visit.press("More like", rank=3)
    assert bodies[-1]["positives"] == [only, {"id": liked, "modality": "s2"}]
    assert liked not in visit.ids()  # it is an example of the images searched
    assert visit.page.locator("#examples .chip.like img").count() == 2


def test_the_preview_of_an_upload_looks_like_the_archives(visit, pair_factory, indexed):
    from sscm.archive.previews import render

    images = {name: pixels for name, pixels in pair_factory(9).images.items() if name != "s1"}
    modality = indexed.manifest.modalities[1]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **images)
    visit.open("#like=s2/id/pair_0005&by=s2&find=s1&n=4")
    name = {"name": "optical.npz", "mimeType": "application/zip", "buffer": buffer.getvalue()}
    visit.page.set_input_files("#files", name)
    visit.page.wait_for_selector("#example .files")
    visit.settle()
    pixels = visit.page.locator("#example img").evaluate("""(image) => {
      const canvas = document.createElement("canvas");
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      canvas.getContext("2d").drawImage(image, 0, 0);
      return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
    }""")
    seen = np.array(pixels).reshape(24, 24, 4)[..., :3]
    assert np.abs(seen - render(images, modality)).max() <= 3  # percentiles are taken a little otherwise


def test_filters_narrow_the_answers(visit):
    visit.open(BY_RADAR)
    bodies = visit.searched()
    visit.page.locator("#filters summary").click()
    visit.page.fill("#bbox", "20, 43, 21, 45")
    visit.page.locator("#bbox").press("Enter")
    visit.wait("document.querySelector('#status').textContent.includes('of 51 images')")
    visit.page.fill("#label", "Pastures")
    visit.page.locator("#label").press("Enter")
    visit.page.fill("#from", "2018-06-10")
    visit.page.fill("#where", "country = 'Serbia'")
    visit.page.locator("#where").blur()
    visit.settle()
    told = {name: bodies[-1][name] for name in ("bbox", "datetime", "labels", "filter")}
    assert told == {
        "bbox": [20, 43, 21, 45],
        "datetime": "2018-06-10T00:00:00Z/..",
        "labels": ["Pastures"],
        "filter": "country = 'Serbia'",
    }
    assert visit.text("#filtered") == "(4)"
    found = [int(name.removeprefix("pair_")) for name in visit.ids()]
    assert found
    assert all(9 <= number <= 50 and number % 4 == 1 for number in found)
    visit.press("Remove label Pastures")
    assert "labels" not in bodies[-1]
    visit.press("Clear all filters")
    assert visit.text("#status") == "10 of 176 images, the most alike first."


def test_a_label_of_an_answer_filters(visit):
    visit.open("#by=s1&find=s2&n=8")  # browsing
    label = visit.text("#answers .card:nth-child(2) .label")
    visit.page.locator("#answers .card").nth(1).get_by_role("button", name=label).click()
    visit.settle()
    assert visit.text("#status") == "8 of 44 places."
    assert set(visit.page.locator("#answers .label").all_inner_texts()) == {label}
    assert visit.page.locator("#answers .score .bar").count() == 0  # nothing is compared


def test_a_box_drawn_on_the_map_filters(visit):
    visit.open(BY_RADAR)
    bodies = visit.searched()
    visit.page.locator("#filters summary").click()
    visit.press("Draw a box")
    visit.page.locator("#map").scroll_into_view_if_needed()
    frame = visit.page.locator("#map").bounding_box()
    x, y = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    visit.page.mouse.move(x - 80, y - 60)
    visit.page.mouse.down()
    visit.page.mouse.move(x, y + 60, steps=4)
    visit.page.mouse.up()
    visit.wait("document.querySelector('#bbox').value !== ''")
    visit.settle()
    west, south, east, north = bodies[-1]["bbox"]
    assert west < east < 24
    assert south < 44 < north
    assert visit.page.locator("#draw").get_attribute("aria-pressed") == "false"
    assert visit.page.locator("#map path.box").count() == 1


def test_answers_and_footprints_point_at_each_other(visit):
    visit.open(BY_RADAR)
    assert visit.page.locator("#map path.footprint:not(.queried)").count() == 20  # a dot and an outline each
    visit.page.locator("#answers .card").nth(3).hover()
    assert visit.page.locator("#map path.footprint.pointed").count() == 2
    visit.page.locator("#map path.footprint:not(.queried)").last.dispatch_event("mouseover", {"bubbles": True})
    assert visit.page.locator("#answers .card.pointed").count() == 1


def test_more_like_this_and_less_like_that(visit):
    visit.open(BY_RADAR)
    bodies = visit.searched()
    first, second = visit.ids()[:2]
    visit.press("Less like", rank=1)
    assert bodies[-1]["negatives"] == [{"id": first, "modality": "s2"}]
    assert visit.text("#found") == "Sentinel-2 images most like this Sentinel-1 image, and unlike 1"
    assert visit.page.locator("#examples .unlike img").count() == 1
    place = visit.ids().index(second) + 1
    visit.press("More like", rank=place)
    assert bodies[-1]["positives"][1] == {"id": second, "modality": "s2"}
    visit.press(f"Remove example: Not like {first}")
    assert "negatives" not in bodies[-1]
    visit.press(f"Remove example: Like {second}")
    assert bodies[-1]["positives"] == [{"id": "pair_0005", "modality": "s1"}]
    assert visit.page.locator("#examples").is_hidden()
    visit.press("Search by", rank=4)
    assert len(bodies[-1]["positives"]) == 1
    assert (bodies[-1]["positives"][0]["modality"], bodies[-1]["target"]) == ("s2", ["s1"])  # still across sensors


def test_both_targets_at_once(visit):
    visit.open(BY_RADAR)
    visit.page.locator("#targets").get_by_text("Sentinel-1").click()
    visit.settle()
    tags = visit.page.locator("#answers .pictures > .picture .tag").all_inner_texts()
    assert [tag[: len("Sentinel-1")] for tag in tags[:2]] == ["Sentinel-1", "Sentinel-2"]
    assert len(tags) == 20
    assert visit.text("#found") == "Sentinel-1 and Sentinel-2 images most like this Sentinel-1 image"


def test_pages_follow_each_other(visit):
    visit.open(BY_RADAR)
    visit.press("More answers")
    assert len(set(visit.ids())) == 20
    assert visit.text("#status") == "20 of 176 images, the most alike first."
    assert visit.page.evaluate("document.activeElement.closest('.card') === document.querySelectorAll('.card')[10]")
    visit.press("Browse all")
    visit.press("More answers")
    assert len(set(visit.ids())) == 20
    assert visit.text("#found") == "Places of the archive"


def test_the_address_holds_the_search(visit, browser, url):
    visit.open(BY_RADAR)
    visit.press("More like", rank=2)
    visit.press("Less like", rank=2)
    visit.page.locator("#filters summary").click()
    visit.page.fill("#where", "country = 'Serbia'")
    visit.page.locator("#where").blur()
    visit.settle()
    seen, link = visit.ids(), visit.page.evaluate("location.hash")
    with visiting(browser, url) as other:
        other.open(link)
        assert other.ids() == seen
        assert other.page.locator("#examples .chip").count() == 3
        assert other.page.input_value("#where") == "country = 'Serbia'"
    visit.page.go_back()
    visit.settle()
    visit.wait("document.querySelector('#where').value === ''")
    assert visit.page.locator("#examples .chip").count() == 3
    visit.page.go_back()
    visit.wait("document.querySelectorAll('#examples .chip').length === 2")
    visit.page.go_forward()
    visit.page.go_forward()
    visit.wait("document.querySelector('#where').value !== ''")
    visit.settle()
    assert visit.ids() == seen


def test_all_of_it_by_keyboard(visit):
    visit.open(BY_RADAR)
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.className") == "skip"
    visit.page.keyboard.press("Enter")
    for _ in range(30):
        visit.page.keyboard.press("Tab")
        if visit.page.evaluate("document.activeElement.matches('.pictures')"):
            break
    others = visit.page.locator("#answers .card").first.locator(".others img")
    others.wait_for(state="visible")  # both images of the place, once it has loaded
    assert visit.page.locator("#map path.footprint.pointed").count() == 2
    visit.page.keyboard.press("Escape")
    assert others.is_hidden()
    more = visit.page.locator("#answers .card").first.get_by_role("button", name="More like")
    while not more.evaluate("button => button === document.activeElement"):
        visit.page.keyboard.press("Tab")
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_selector("#examples .chip")
    visit.settle()
    assert visit.page.evaluate("document.activeElement.id") == "found"  # the answers are others now
    visit.page.locator("#random").focus()
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_selector("#examples", state="hidden")
    visit.settle()
    assert len(visit.ids()) == 10


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(browser, url, scheme):
    options = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    with visiting(browser, url, color_scheme=scheme, **options) as phone:
        phone.open(f"{BY_RADAR}&find=s1&where=country+%3D+'Serbia'&label=Pastures&like=s2/id/pair_0009")
        assert phone.page.evaluate("document.documentElement.scrollWidth") == 360
        others = phone.page.locator("#answers .card").nth(1).locator(".others")
        assert others.is_hidden()
        phone.page.locator("#answers .card").nth(1).locator(".pictures").tap()
        assert others.is_visible()
        box = others.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
        assert phone.page.evaluate("document.documentElement.scrollWidth") == 360


def test_tiles_are_shown_where_a_server_is_configured(visit):
    settings = {"tiles": "/tiles/{z}/{x}/{y}.png", "attribution": "Tiles <by> us"}
    visit.page.route("**/page/settings.json", lambda route: route.fulfill(json=settings))
    pixel = b"\x89PNG\r\n\x1a\n"
    asked = []

    def tile(route):
        asked.append(route.request.url)
        route.fulfill(body=pixel, content_type="image/png")

    visit.page.route("**/tiles/**", tile)
    visit.open(BY_RADAR)
    assert asked
    assert all(re.search(r"/tiles/\d+/-?\d+/-?\d+\.png$", address) for address in asked)
    assert "Tiles <by> us" in visit.text("#map")
    assert not any("world-atlas" in address for address in visit.asked)


def test_the_page_says_what_it_searches_by_in_json_that_the_api_takes(visit, url):
    import httpx

    visit.open(f"{BY_RADAR}&bbox=20,43,21,45&least=-0.5")
    bodies = visit.searched()
    visit.press("More like", rank=1)
    answer = httpx.post(f"{url}/v1/search", json=json.loads(json.dumps(bodies[-1])))
    assert [feature["id"] for feature in answer.json()["features"]] == visit.ids()
    assert bodies[-1]["min_score"] == -0.5
