"""The live page in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlkv_service.decision_api.options import ApiOptions
from rlkv_service.decision_api.tokens import add_token
from rlkv_service.embedded_valkey import EmbeddedValkey
from tests.service.decision_api.running_api import PATIENCE_S, new_service, running_api
from tests.service.decision_api.traffic import TOOLS, estimates, traffic

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")

SIZES = {"desktop": (1200, 900), "phone": (360, 740)}
#: Contrast of normal text that WCAG 2.2 AA asks for.
LEAST_CONTRAST = 4.5

CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const under = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$/.test(color)) return color;
    }
  };
  const least = { ratio: 99 };
  for (const element of document.querySelectorAll("main *, header *, footer")) {
    const svg = element.namespaceURI.endsWith("svg");
    const text = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!text || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(rgb(svg ? style.fill : style.color)), light(rgb(under(element)))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < least.ratio) Object.assign(least, { ratio, text: element.textContent });
  }
  return least;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def open_page(browser: Any, url: str, size: str = "desktop", scheme: str = "light") -> Any:
    width, height = SIZES[size]
    page = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme
    ).new_page()
    page.set_default_timeout(1000.0 * PATIENCE_S)
    page.said = []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda request: page.said.append(request.url)
            if not request.url.startswith((url, "data:")) else None)  # fmt: skip
    page.goto(url)
    return page


def test_it_shows_what_happens(browser: Any, valkey: EmbeddedValkey) -> None:
    service = new_service(valkey.url, shadow=True, estimates=estimates())
    with running_api(service) as api:
        pages = [
            (open_page(browser, f"{api.url}/", size, scheme), size)
            for size, scheme in (("desktop", "light"), ("phone", "dark"))
        ]
        for page, _ in pages:
            page.wait_for_selector("#state.live")
            assert page.text_content("#pools tbody") == "no engine has asked yet"
        feed = traffic(0)
        num = 0
        for _ in range(60):
            decisions, outcomes = next(feed)
            num += len(decisions["rows"])
            assert api.post("/v1/decisions", decisions).status_code == 200
            assert api.post("/v1/outcomes", outcomes).status_code == 200
        for page, size in pages:
            told = f"() => document.querySelector('#who-note').textContent.startsWith('{num} ')"
            page.wait_for_function(told)
            page.wait_for_function(
                "() => document.querySelectorAll('#tools tbody tr').length === 10"
                " && document.querySelectorAll('#regret tbody tr').length > 1"
            )
            # Names are text, whatever is in them.
            assert page.title() == "rlkv live"
            assert page.locator("img").count() == 0
            hostile = next(name for name in TOOLS if "<" in name)
            assert page.locator("#tools th", has_text=hostile).count() >= 1
            seen, predicted = page.text_content("#tools tbody tr td:nth-child(4)").split(" / ")
            assert seen.endswith(" s") and predicted.endswith(" s")
            assert page.locator("#pools tbody tr").count() == 2
            assert page.locator("#latest tbody tr").count() == 12
            assert page.is_visible("#shadow")
            assert page.text_content("#policy") == service.policy.version
            assert "decisions" in page.text_content("#confidence-note")
            assert page.text_content("#p50").endswith(("µs", "ms"))
            assert "PRESERVE" in page.get_attribute("#verbs", "aria-label")
            assert page.get_attribute("#state", "aria-live") == "polite"
            assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
            contrast = page.evaluate(CONTRAST)
            assert contrast["ratio"] >= LEAST_CONTRAST, contrast
            assert page.said == []
        valkey.kill()
        for page, _ in pages:
            page.wait_for_selector("#trouble:has-text('Redis: ')")
    for page, _ in pages:
        page.wait_for_selector("#state.lost")
        page.context.close()


def test_it_asks_for_the_token(browser: Any, valkey: EmbeddedValkey, tmp_path: Path) -> None:
    token = add_token(tmp_path / "tokens", "me")
    with running_api(new_service(valkey.url), ApiOptions(tmp_path / "tokens")) as api:
        page = open_page(browser, f"{api.url}/")
        page.wait_for_selector("#ask")
        page.get_by_role("textbox").fill("rlkv_wrong")
        page.get_by_role("button", name="Watch").click()
        page.wait_for_selector("#ask-note:has-text('not known')")
        page.get_by_role("textbox").fill(token)
        page.keyboard.press("Enter")
        page.wait_for_selector("#state.live")
        assert not page.is_visible("#ask")
        # Kept for this tab alone.
        page.reload()
        page.wait_for_selector("#state.live")
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        page.context.close()


def test_nothing_else_runs_in_it(browser: Any, valkey: EmbeddedValkey) -> None:
    with running_api(new_service(valkey.url)) as api:
        page = open_page(browser, f"{api.url}/")
        page.wait_for_selector("#state.live")
        page.evaluate("""() => {
          const script = document.createElement("script");
          script.textContent = "document.title = 'mine'";
          document.body.append(script);
          const image = document.createElement("img");
          image.src = "http://127.0.0.1:9/x.png";
          document.body.append(image);
        }""")
        page.wait_for_function("() => document.images[0].complete")
        assert page.title() == "rlkv live"
        refused = [each for each in page.said if "Content Security Policy" in each]
        assert len(refused) == 2
        page.context.close()
