"""Does the report work in a real browser? Chromium opens one of 50,000 requests and uses it.

Seconds are those from opening the file until the answer, the table and the figures in sight are drawn and the page can
be used, the best of several openings, since other programs share the machine; `all_drawn_s` is with every figure.
Console errors and requests to elsewhere count over all openings, light and dark, wide, on a phone and in print, and
while the controls are used: policies and minutes by keyboard. Needs Playwright beside kvhorizon, and a Chromium (its
own, or the one that KVHORIZON_CHROMIUM names). Screenshots go to `out/report_browser`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments._harness import Figures, Options, Targets, main, target
from kvhorizon.errors import InputError
from kvhorizon.recording.schema import Row
from kvhorizon.recording.write import write_rows
from kvhorizon.report.page import render
from kvhorizon.sim.whatif import Question, prepare, what_if
from kvhorizon.sim.workloads import synthesize

SEED = 0
REQUESTS, QUICK_REQUESTS = 50_000, 3_000
OPENINGS, QUICK_OPENINGS = 5, 2
POLICIES = ("fcfs", "watermark:0.02", "kvhorizon:greedy", "kvhorizon:greedy/means", "fcfs:free-recompute")
HOSTILE = '<img src=x onerror="console.error(1)"><a href="https://example.com">tenant</a></script>'
SHOTS = Path("out/report_browser")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
VIEWS: dict[str, dict[str, Any]] = {
    "light": {"viewport": DESKTOP, "color_scheme": "light"},
    "dark": {"viewport": DESKTOP, "color_scheme": "dark"},
    "phone": {"viewport": PHONE, "color_scheme": "light", "has_touch": True, "is_mobile": True},
}


def write_report(requests: int, folder: Path) -> Path:
    """Of a recording whose tenants have hostile names."""
    trace = synthesize("mixed", requests, SEED)
    rows = [
        Row(
            float(trace.arrival_s[n]),
            int(trace.prompt_tokens[n]),
            int(trace.output_tokens[n]),
            tenant=(HOSTILE, "team-b", "", "日本")[n % 4],
        )
        for n in range(len(trace))
    ]
    write_rows(folder / "load.parquet", rows, {})
    asked = Question(
        str(folder / "load.parquet"), gpu="a100-40gb", load=1.3, forecast="noisy:0.6", policies=POLICIES, seed=SEED
    )
    path = folder / "report.html"
    path.write_text(render(what_if(prepare(asked), {}), "kvhorizon what-if load.parquet"), encoding="utf-8")
    return path


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; raises InputError where there is none."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise InputError("browser", None, "needs Playwright: pip install playwright") from None
    named = os.environ.get("KVHORIZON_CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=named, args=["--no-sandbox"])
        except Error as error:
            raise InputError("browser", named, f"must be a Chromium that starts ({error.message[:80]})") from None
        yield browser
        browser.close()


def watched(browser: Any, view: dict[str, Any], told: list[str]) -> Any:
    """A page whose errors, and whose requests to anywhere, are noted."""
    page = browser.new_page(**view)
    page.on("console", lambda message: told.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on(
        "request", lambda asked: None if asked.url.startswith(("file:", "data:", "blob:")) else told.append(asked.url)
    )
    return page


def drawn_s(page: Any, path: Path) -> tuple[float, float]:
    """Seconds from navigation until what is in sight is drawn, and until everything is."""
    page.goto(path.as_uri(), wait_until="load")
    page.wait_for_function("document.documentElement.dataset.drawn")
    in_sight_ms = page.evaluate("performance.getEntriesByName('kvhorizon-drawn')[0].startTime")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    all_ms = page.evaluate("performance.now()")
    return float(in_sight_ms) / 1e3, float(all_ms) / 1e3


def use(page: Any) -> dict[str, Any]:
    """What the controls do, by keyboard alone; and what a screen reader is told."""
    page.locator("#minute-policy").focus()
    before = page.locator("#minute-says").text_content()
    page.locator("#minute-at").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    moved = page.locator("#minute-says").text_content()
    page.locator("#minute-policy").select_option(index=2)
    page.locator("#minute-on").focus()
    page.keyboard.press("Enter")
    return {
        "moved": int(before != moved and page.locator("#minute-at").input_value() == "2"),
        "events": page.locator("#minute-events tbody tr").count(),
        "figures": page.locator(".js-plotly-plot .main-svg").count(),
        "unnamed": page.evaluate(
            "[...document.querySelectorAll('select,input,button')].filter("
            "one => !one.labels?.length && !one.getAttribute('aria-label')).length"
        ),
        "too_wide": int(page.evaluate("document.documentElement.scrollWidth > window.innerWidth + 1")),
        "links": page.locator("main a[href]").count(),
    }


def look(path: Path, openings: int, shots: Path) -> dict[str, Any]:
    """Open it in each view, use it, and take pictures."""
    shots.mkdir(parents=True, exist_ok=True)
    told: list[str] = []
    seconds: list[tuple[float, float]] = []
    used: dict[str, dict[str, Any]] = {}
    with chromium() as browser:
        for name, view in VIEWS.items():
            page = watched(browser, view, told)
            seconds += [drawn_s(page, path) for _ in range(openings if name == "light" else 1)]
            page.screenshot(path=shots / f"{name}.png", full_page=True)
            used[name] = use(page)
            page.close()
        page = watched(browser, VIEWS["light"], told)
        drawn_s(page, path)
        page.emulate_media(media="print")
        page.pdf(path=shots / "print.pdf")
        page.close()
        version = browser.version
    best = {"load_s": min(one[0] for one in seconds), "all_drawn_s": min(one[1] for one in seconds)}
    return {**best, "seconds": seconds, "told": told, "used": used, "chromium": version}


def measure(options: Options) -> tuple[Figures, Targets]:
    """Write, open, use."""
    shots = SHOTS.absolute()
    shots.mkdir(parents=True, exist_ok=True)
    path = write_report(QUICK_REQUESTS if options.quick else REQUESTS, shots)
    found = look(path, QUICK_OPENINGS if options.quick else OPENINGS, shots)
    wrong = sum(one["unnamed"] + one["too_wide"] + one["links"] + 1 - one["moved"] for one in found["used"].values())
    return {**found, "wrong": wrong}, {
        "console_errors": target(len(found["told"]), "<=0"),
        "load_s": target(found["load_s"], "<=2"),
        "file_mb": target(path.stat().st_size / 1e6, "<=8"),
        "wrong": target(wrong, "<=0"),
    }


if __name__ == "__main__":
    main("report_browser", SEED, measure)
