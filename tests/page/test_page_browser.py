"""The page in a headless Chromium, from a file: clicks, keys, sizes, schemes; no complaint, no request."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.page.conftest import Browser
from tests.page.making import HOSTILE

pytestmark = pytest.mark.needs("chromium")
Made = Callable[..., Path]
log = logging.getLogger(__name__)
HEADS = "[...document.querySelectorAll('#cells-table thead th')].map(h => h.innerText.replace(/\\s+/g, ' ').trim())"
SHOWN = "[...document.querySelectorAll('#cells-table tbody tr:not([hidden])')]"
COLUMN = f"return {SHOWN}.map(r => r.cells[arguments[0]].dataset.value ?? r.cells[arguments[0]].textContent)"
SET = (
    "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
    "s.dispatchEvent(new Event('{}', {{bubbles: true}}))"
)
ROWS = f"return {SHOWN}.map(r => Number(r.cells[0].textContent))"


@pytest.fixture
def opened(browser: Browser, made: Made) -> Browser:
    """The page of a small study, and afterwards: no complaint and no request but for the page itself."""
    page = made(cells=7)
    browser.open(page)
    return browser


def column(browser: Browser, head: str) -> int:
    return browser.run(f"return {HEADS}").index(head)


def test_it_opens_in_silence_and_asks_for_nothing(opened: Browser, made: Made) -> None:
    for pick in ("best", "median", "worst"):
        opened.click(f"[data-pick={pick}]")
    opened.click("input[value=difference]")
    opened.wait("return document.getElementById('under').naturalWidth > 0 && document.getElementById('over').naturalWidth > 0")
    assert opened.requests() == [made(cells=7).as_uri()]
    assert opened.complaints() == []


def test_headings_sort_by_number_both_ways_and_by_keyboard(opened: Browser) -> None:
    at = column(opened, "speed-up")
    head = f"#cells-table thead th:nth-child({at + 1})"
    opened.press(f"{head} button", "\n")
    values = [float(v) for v in opened.run(COLUMN, at)]
    assert values == sorted(values) and len(values) == 7
    assert opened.find(head).get_attribute("aria-sort") == "ascending"
    opened.click(f"{head} button")
    values = [float(v) for v in opened.run(COLUMN, at)]
    assert values == sorted(values, reverse=True)
    opened.click(f"#cells-table thead th:nth-child({column(opened, 'cell') + 1}) button")
    assert opened.run("return document.querySelectorAll('[aria-sort]').length") == 1
    assert opened.complaints() == []


def test_filters_narrow_the_table_and_clear(opened: Browser) -> None:
    opened.find("#search").send_keys("γ=3")
    assert opened.run(ROWS) == [3, 6] and opened.text("#count") == "2 of 7 cells"
    opened.click("#filters button[type=reset]")
    opened.wait("return document.getElementById('count').textContent === '7 of 7 cells'")
    opened.click("input[name=strategy][value=parallel_v1]")
    assert opened.run(ROWS) == [1]
    opened.click("#filters button[type=reset]")
    opened.wait("return document.getElementById('count').textContent === '7 of 7 cells'")
    opened.run(SET.format("input"), "lossless", "no")
    assert opened.run(ROWS) == [3, 4, 5, 6, 7]
    opened.click("#front")
    assert set(opened.run(f"return {SHOWN}.map(r => r.dataset.front)")) == {"1"} and opened.complaints() == []


def test_a_name_chooses_the_cell_everywhere(opened: Browser) -> None:
    opened.press("#cells-table tbody tr:nth-child(5) .pick", "\n")
    name = opened.text("#cells-table tbody tr:nth-child(5) .pick")
    assert opened.run("return [...document.querySelectorAll('.card.shown h3')].map(h => h.textContent)") == [f"5 · {name}"]
    for choice in ("image-cell", "stage-cell"):
        assert opened.run("return document.getElementById(arguments[0]).selectedOptions[0].text", choice) == f"5 · {name}"
    assert "acceptance: match_rate" in opened.text(".card.shown") and "gamma: fixed" in opened.text(".card.shown")


def test_the_slider_uncovers_by_keyboard_and_by_pointer(opened: Browser) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    clip = "return document.getElementById('over').style.clipPath"
    assert "50%" in opened.run(clip)
    opened.press("#slider", Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert "48%" in opened.run(clip)
    assert opened.find("#slider").get_attribute("aria-valuetext") == "52 % baseline, 48 % sample"
    opened.press("#slider", Keys.HOME)
    assert "100%" in opened.run(clip)
    frame = opened.find("#frame")
    width = frame.size["width"]
    ActionChains(opened.driver).move_to_element_with_offset(frame, round(width / 4), 0).click().perform()
    assert abs(int(opened.find("#slider").get_attribute("value")) - 75) <= 1
    before = opened.find("#under").get_attribute("src")
    opened.click("input[name=right][value=difference]")
    assert opened.find("#under").get_attribute("src") != before and opened.text("#tag-right") == "difference × 4"
    opened.click("input[name=left][value=sample]")
    assert opened.find("#over").get_attribute("src") == before


def test_thumbnails_are_ordered_filtered_and_walked_by_arrows(opened: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    titles = "return [...document.querySelectorAll('#thumbs > div')].map(n => n.title)"
    shown = opened.run(titles)
    values = [float(text.rsplit(" ", 1)[1]) for text in shown]
    assert len(shown) == 8 and values == sorted(values, reverse=True)
    opened.press("#thumbs [tabindex='0']", Keys.ARROW_RIGHT)
    assert opened.run("return document.activeElement.title") == shown[1]
    assert opened.run("return document.activeElement.getAttribute('aria-selected')") == "true"
    assert shown[1].startswith(("T-shirt (0), seed ", "Dress (3), seed "))
    assert opened.text("#unit dd").startswith(", ".join(shown[1].split(", ")[:2]).replace("seed ", ""))
    opened.run(SET.format("change"), "label", "3")
    assert all(text.startswith("Dress (3),") for text in opened.run(titles)) and opened.text("#thumb-count") == "4 of 8 images"
    opened.run(SET.format("change"), "kind", "_diff")
    picture = "return getComputedStyle(document.querySelector('#thumbs > div')).backgroundImage"
    assert "blob:" in opened.run(picture) and opened.complaints() == []


def test_other_images_come_from_the_folder_beside_or_are_missed_in_words(browser: Browser, made: Made, tmp_path: Path) -> None:
    page = made(cells=3)
    browser.open(page)
    middle = "document.querySelector('#thumbs').children[2].click()"
    browser.run(middle)
    browser.wait("const i = document.getElementById('under'); return i.complete && i.naturalWidth > 0")
    assert browser.find("#under").get_attribute("src").endswith(".png") and not browser.find("#absent").is_displayed()
    assert all(url.startswith("file:") for url in browser.requests())
    alone = Path(shutil.copy(page, tmp_path / "alone.html"))
    browser.open(alone)
    assert browser.complaints() == [] and not browser.find("#absent").is_displayed(), "the worst one is inside"
    browser.run(middle)
    browser.wait("return !document.getElementById('absent').hidden")
    assert "keep the page in its study's folder" in browser.text("#absent")


def test_the_scrubber_walks_through_the_stages(opened: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    place = "return document.getElementById('tile-2').style.backgroundPosition"
    opened.press("#stage", Keys.HOME)
    assert opened.run(place).startswith("0%") and opened.find("#stage").get_attribute("aria-valuetext") == "stage 0 of 5"
    opened.press("#stage", Keys.ARROW_RIGHT)
    assert opened.run(place).startswith("25%") and "1 of 0 … 4" in opened.text("#stage-facts")
    assert "passed" in opened.text("#stage-facts") and "3 3 2" in opened.text("#stage-facts")
    opened.click("#strip button:nth-child(4)")
    assert "failed" in opened.text("#stage-facts")
    assert opened.run("return document.querySelectorAll('#strip [aria-pressed=true]').length") == 1
    opened.press("#stage", Keys.END)
    opened.click("#play")
    assert opened.find("#play").get_attribute("aria-pressed") == "true" and opened.run(place).startswith("0%")
    opened.wait("return document.getElementById('stage').value === '4'")
    opened.wait("return document.getElementById('play').getAttribute('aria-pressed') === 'false'")
    opened.run("const s = document.getElementById('stage-cell'); s.selectedIndex = 0; s.dispatchEvent(new Event('change'))")
    assert "the target, alone" in opened.text("#stage-facts") and "none" in opened.find("#tile-0").get_attribute("class")
    assert opened.complaints() == []


def test_a_figure_opens_zooms_and_closes(opened: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    opened.press("button.zoom", "\n")
    opened.wait("return document.getElementById('lightbox').open && document.getElementById('lightbox-image').style.width")
    width = "return document.getElementById('lightbox-image').getBoundingClientRect().width"
    before = opened.run(width)
    opened.click("[data-zoom='1.25']")
    assert opened.run(width) == pytest.approx(1.25 * before, abs=1.5)
    opened.driver.switch_to.active_element.send_keys("-")
    assert opened.run(width) == pytest.approx(before, abs=1.5)
    opened.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    opened.wait("return !document.getElementById('lightbox').open")
    assert "zoom" in opened.run("return document.activeElement.className"), "the focus returns to the figure"


def test_number_and_name_stay_where_a_phone_scrolls_sideways(browser: Browser, made: Made) -> None:
    browser.open(made(cells=7), width=390)
    places = "return [...document.querySelectorAll('#cells-table tbody tr:nth-child(2) > *')].slice(0, 3).map(c => c.getBoundingClientRect())"
    before = browser.run(places)
    browser.run("document.querySelector('.scroll').scrollLeft = 120")
    after = browser.run(places)
    assert [c["left"] for c in after[:2]] == [c["left"] for c in before[:2]] and after[2]["left"] < before[2]["left"]
    assert after[0]["right"] <= after[1]["left"] + 1 and after[1]["right"] < 200, "room is left for numbers"


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_no_width_makes_the_page_scroll_sideways(width: int, browser: Browser, made: Made) -> None:
    browser.open(made(cells=6, names=("sequential", *HOSTILE), study="a'b"), width=width)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.complaints() == []


def test_dark_is_dark_and_paper_is_paper(browser: Browser, made: Made) -> None:
    def brightness() -> float:
        colour = browser.run("return getComputedStyle(document.body).backgroundColor")
        return sum(int(v) for v in colour[4:-1].split(",")) / 3

    page = made(cells=7)
    browser.open(page, dark=True)
    assert brightness() < 60
    browser.open(page)
    assert brightness() > 240
    browser.open(page, media="print")
    assert brightness() > 240 and not browser.find("nav").is_displayed() and not browser.find("#filters").is_displayed()
    assert [card.is_displayed() for card in browser.driver.find_elements("css selector", ".card")] == [True] * 7
    browser.open(page)


def test_hostile_names_are_shown_and_do_nothing(browser: Browser, made: Made) -> None:
    browser.open(made(cells=6, names=("sequential", *HOSTILE), study="a'b"))
    assert browser.driver.title == "a'b · sdvar_exp"
    names = browser.run("return [...document.querySelectorAll('.pick')].map(b => b.textContent)")
    assert names == ["sequential", *HOSTILE]
    for i in range(1, 6):
        browser.run("document.querySelectorAll('.pick')[arguments[0]].click()", i)
    assert browser.complaints() == [] and browser.driver.title == "a'b · sdvar_exp"


def test_everything_has_a_name(opened: Browser) -> None:
    """Controls and pictures can be told apart without seeing them."""
    unnamed = opened.run("""
      return [...document.querySelectorAll('button, input, select, [role=img], [role=listbox], dialog')].filter(node => {
        const label = node.getAttribute('aria-label') || node.getAttribute('aria-labelledby') || node.labels?.[0]?.innerText;
        return !(label || node.textContent).trim();
      }).map(node => node.outerHTML.slice(0, 80))""")
    assert unnamed == []
    assert opened.run("return [...document.querySelectorAll('img')].filter(i => !i.hasAttribute('alt')).length") == 0
    labels = opened.run("return [...document.querySelectorAll('section')].map(s => s.getAttribute('aria-labelledby'))")
    assert labels and all(opened.find(f"#{label}").text for label in labels)


def test_without_images_the_page_is_whole(browser: Browser, made: Made) -> None:
    browser.open(made(images=False))
    assert not browser.find("#compare").is_displayed() and not browser.find("#walk").is_displayed()
    browser.run("document.querySelectorAll('.pick')[1].click()")
    assert browser.complaints() == [] and len(browser.requests()) == 1


@pytest.mark.long
def test_nine_thousand_images(browser: Browser, made: Made, record_property: Callable[[str, object], None]) -> None:
    """30 cells × 300 units: what opening and filtering take is written down, not judged."""
    page = made(cells=30, labels=tuple(range(10)), seeds=30, side=40)
    assert page.stat().st_size < 30_000_000
    start = time.perf_counter()
    browser.open(page)
    browser.wait("return document.querySelectorAll('#thumbs > div').length === 300")
    opened = time.perf_counter() - start
    filtering = browser.run("""
      const t = performance.now(), box = document.getElementById('search');
      box.value = 'γ=3'; box.dispatchEvent(new Event('input', {bubbles: true})); document.body.offsetHeight;
      return performance.now() - t""")
    choosing = browser.run("""
      const t = performance.now(); document.querySelectorAll('.pick')[7].click(); document.body.offsetHeight;
      return performance.now() - t""")
    assert len(browser.run(ROWS)) == 10 and browser.complaints() == []
    for name, value in (("open_s", opened), ("filter_ms", filtering), ("choose_ms", choosing), ("bytes", page.stat().st_size)):
        record_property(name, value)
    log.warning(
        "30 cells × 300 images: open %.2f s, filter %.0f ms, choose a cell %.0f ms, %.1f MB",
        opened,
        filtering,
        choosing,
        page.stat().st_size / 1e6,
    )
