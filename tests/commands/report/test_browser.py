"""The report in a real Chromium, used as a person uses it."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dimba.commands.report import write_report
from tests.commands.report.runs import EVIL, curve, write_lines, write_run

pytestmark = [pytest.mark.proof, pytest.mark.browser]
NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (360, 1024, 2000)
PLOT = "document.getElementById('plot-loss')"
PRINTED = f"document.querySelectorAll('details.print:not([open])').length + {PLOT}.layout.paper_bgcolor"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A Chromium of this machine; without one tests skip, or fail if DIMBA_REQUIRE_BROWSER is set."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright, found = None, None
    if not found or not sync_playwright:
        missing = f"none of {', '.join(NAMES)} is here, or the package playwright"
        if os.environ.get("DIMBA_REQUIRE_BROWSER"):
            pytest.fail(f"a browser is required here: {missing}")
        pytest.skip(f"NO BROWSER TESTED: {missing}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with everything in it, the texts of a stranger included."""
    folder = tmp_path_factory.mktemp("one")
    memory = {"peak": "backward", "lower_bound": False, "total": 21 << 30}
    learning = {"continuations": [{"prompt": EVIL, "before": "x" * 300, "after": EVIL, "changed": True}]}
    lines = [*curve(1, 120, evaluated=20), {"step": 120, "peak_memory_bytes": 20 << 30}]
    lines = [line | ({"reward": 0.5, f"rewards/{EVIL}/mean": 0.2, "rewards/b/mean": 0.3}) for line in lines]
    run = write_run(
        folder / "runs", f"first-{'y' * 50}-<b>", attempts=[curve(1, 70, total=120), lines[50:]],
        plan={"memory": memory, "argv": ["python", "--flag", "z" * 200, EVIL]}, learning=learning,
    )  # fmt: skip
    samples = [
        {"step": step, "prompt": EVIL, "completion": "long " * 100, "reward": n / 4}
        for step in (1, 60, 120)
        for n in range(5)
    ]
    write_lines(run.path / "attempts/2/samples.jsonl", samples)
    return write_report([run], folder).path


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of nine runs, one of them without metrics."""
    folder = tmp_path_factory.mktemp("several")
    runs = [
        write_run(folder / "runs", f"run{n}-20261129-{'w' * 30}{n}", attempts=[curve(1, 60, seed=n)], rate=n * 1e-4)
        for n in range(1, 9)
    ]
    return write_report([*runs, write_run(folder / "runs", "none-1", status="failed")], folder).path


class Opened:
    """A page, and what it logged and requested."""

    def __init__(self, chromium: Any, path: Path, **context: Any) -> None:
        self.context = chromium.new_context(**context)
        self.page = self.context.new_page()
        self.logged: list[str] = []
        self.requested: list[str] = []
        self.page.on("console", lambda message: self.logged.append(message.text))
        self.page.on("pageerror", lambda error: self.logged.append(str(error)))
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


def with_width(width: int, scheme: str = "light") -> dict[str, Any]:
    return {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("which", ["one", "several"])
def test_nothing_scrolls_sideways_logs_an_error_or_loads_a_file(
    chromium: Any, which: str, width: int, request: pytest.FixtureRequest
):
    path = request.getfixturevalue(which)
    with Opened(chromium, path, **with_width(width)) as opened:
        opened.page.wait_for_selector("#plot-loss .legend" if which == "several" else "#plot-loss .main-svg")
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        inside = "[...document.querySelectorAll('.plot, pre, dd, h1, h2, h3')].filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== 'inline').map(e => e.tagName + e.id)"  # noqa: E501
        assert opened.page.evaluate(inside) == []
        assert opened.logged == []
        assert opened.requested == [path.as_uri()]
        assert opened.page.title().endswith("dimba report")
        assert opened.page.locator("img").count() == 0


def test_hovering_a_curve_shows_its_value(chromium: Any, one: Path):
    with Opened(chromium, one, **with_width(1024)) as opened:
        opened.page.locator("#plot-loss").scroll_into_view_if_needed()
        box = opened.page.locator("#plot-loss .nsewdrag").first.bounding_box()
        opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        shown = opened.page.locator("#plot-loss .hoverlayer")
        opened.page.wait_for_function(
            "document.querySelector('#plot-loss .hoverlayer').textContent.includes('training')"
        )
        assert re.search(r"\d\.\d{2}", shown.text_content())


def test_a_click_in_the_legend_hides_a_curve_and_another_theme_leaves_it_hidden(chromium: Any, several: Path):
    with Opened(chromium, several, **with_width(1024)) as opened:
        opened.page.locator("#plot-loss .legendtoggle").nth(1).click()
        hidden = "document.getElementById('plot-loss').data.map(each => each.visible === 'legendonly')"
        opened.page.wait_for_function(f"({hidden})[1]")
        opened.page.emulate_media(color_scheme="dark")
        opened.page.wait_for_function("document.getElementById('plot-loss').layout.paper_bgcolor === '#0d1117'")
        assert opened.page.evaluate(hidden) == [False, True] + [False] * 6


def test_curves_of_several_runs_differ_in_colour_or_dash(chromium: Any, several: Path):
    with Opened(chromium, several, **with_width(1024)) as opened:
        lines = "document.getElementById('plot-loss').data.map(each => [each.line.color, each.line.dash].join())"
        looks = opened.page.evaluate(lines)
        assert len(looks) == 8 == len(set(looks))


def test_dragging_zooms_and_a_double_click_returns(chromium: Any, one: Path):
    with Opened(chromium, one, **with_width(1024)) as opened:
        page = opened.page
        page.locator("#plot-loss").scroll_into_view_if_needed()
        steps = "document.getElementById('plot-loss').layout.xaxis.range"
        before = page.evaluate(steps)
        box = page.locator("#plot-loss .nsewdrag").first.bounding_box()
        middle = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + box["width"] * 0.3, middle)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.6, middle, steps=4)
        page.mouse.up()
        page.wait_for_function(f"({steps})[0] > {before[0]} + 20")
        page.wait_for_timeout(400)  # or the next clicks would count as the drag's second
        page.mouse.dblclick(box["x"] + box["width"] / 2, middle)
        page.wait_for_function(f"Math.abs(({steps})[0] - ({before[0]})) < 1")


def test_no_button_sends_the_data_anywhere(chromium: Any, one: Path):
    with Opened(chromium, one, **with_width(1024)) as opened:
        titles = "[...document.querySelectorAll('#plot-loss .modebar-btn')].map(each => each.dataset.title)"
        known = ["Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes", "Download plot as a PNG"]
        assert [title.lower() for title in opened.page.evaluate(titles)] == [title.lower() for title in known]


def test_it_prints_on_white_with_its_texts_open_and_returns_to_the_screen(chromium: Any, one: Path):
    with Opened(chromium, one, **with_width(1024, "dark")) as opened:
        page = opened.page
        closed = page.locator("details.print:not([open])").count()
        page.evaluate(f"window.addEventListener('beforeprint', () => {{ window.seen = {PRINTED}; }})")
        data = page.pdf(format="A4")
        assert data.startswith(b"%PDF") and data.count(b"/Type /Page\n") >= 2
        assert page.evaluate("window.seen") == "0#ffffff"
        assert closed and page.locator("details.print:not([open])").count() == closed
        assert page.evaluate("document.getElementById('plot-loss').layout.paper_bgcolor") == "#0d1117"
        page.emulate_media(media="print")
        assert not page.locator("nav").is_visible()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert opened.logged == []


def luminance(colour: str) -> float:
    parts = (
        [int(colour[n : n + 2], 16) for n in (1, 3, 5)] if colour[0] == "#" else map(int, re.findall(r"\d+", colour))
    )
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in parts)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_curves_have_enough_contrast(chromium: Any, several: Path, scheme: str):
    with Opened(chromium, several, **with_width(1024, scheme)) as opened:
        back = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (luminance(back) < 0.1) == (scheme == "dark")
        colours = "[...new Set([...document.querySelectorAll('p,a,dt,dd,th,td,h1,h2,.status,.note,figcaption,summary')].map(e => getComputedStyle(e).color))]"  # noqa: E501
        texts = opened.page.evaluate(colours)
        assert len(texts) >= 3 and min(contrast(text, back) for text in texts) >= 4.5
        curves = opened.page.evaluate("document.getElementById('plot-loss').data.map(each => each.line.color)")
        assert min(contrast(colour, back) for colour in curves) >= 3


def test_the_keyboard_reaches_the_skip_link_the_sections_and_every_table(chromium: Any, one: Path):
    with Opened(chromium, one, **with_width(1024)) as opened:
        page = opened.page
        page.keyboard.press("Tab")
        focused = "document.activeElement.className + document.activeElement.tagName"
        assert page.evaluate(focused) == "skipA"
        assert page.locator(".skip").bounding_box()["x"] >= 0
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        seen = []
        for _ in range(120):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement === document.body"):
                break
            seen.append(
                page.evaluate("document.activeElement.tagName + ' ' + document.activeElement.textContent.trim()")
            )
        page.locator("#plot-loss .modebar-btn").first.focus()
        page.wait_for_function("getComputedStyle(document.querySelector('#plot-loss .modebar')).opacity === '1'")
        summaries = [text for text in seen if text.startswith("SUMMARY")]
        assert "SUMMARY Loss as a table" in summaries and len(summaries) == page.locator("summary").count()
        page.locator("summary", has_text="Loss as a table").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Loss as a table"


def test_a_screen_reader_gets_each_chart_in_words(chromium: Any, one: Path):
    with Opened(chromium, one, **with_width(1024)) as opened:
        plots = opened.page.locator(".plot").all()
        assert len(plots) == 6
        for plot in plots:
            assert plot.get_attribute("role") == "group" and len(plot.get_attribute("aria-label")) > 40
            assert {each.get_attribute("aria-hidden") for each in plot.locator(".main-svg").all()} == {"true"}
        assert opened.page.locator("main h2, main h3").count() == opened.page.evaluate(
            "new Set([...document.querySelectorAll('main h2, main h3')].map(e => e.id || e.textContent)).size"
        )


def test_without_javascript_the_tables_and_texts_remain(chromium: Any, one: Path):
    with Opened(chromium, one, java_script_enabled=False) as opened:
        opened.page.locator("summary", has_text="Loss as a table").click()
        assert opened.page.locator("figure table").first.is_visible()
