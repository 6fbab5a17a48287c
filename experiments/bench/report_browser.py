"""Does the report work in a real browser? Chromium opens one of 50,000 requests and uses it.

Seconds are those from opening the file until the answer, the table and the figures in sight are drawn and the page can
be used, the best of several openings, since other programs share the machine; `all_drawn_s` is with every figure.
Console errors and requests to elsewhere count over all openings, light and dark, wide, on a phone and in print, and
while the controls are used: policies and minutes by keyboard. `wrong` counts what is amiss in them: a control that does
nothing, has no name, or shows no focus; figures that keep their colours in the dark; a tenant's name as markup.
Needs a Chromium, Playwright's own or the one that KVHORIZON_CHROMIUM names. Screenshots go to `out/report_browser`.
"""

from __future__ import annotations

import operator
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.common._harness import Figures, Options, Targets, main, target
from kvhorizon.errors import InputError
from kvhorizon.recording.schema import Row
from kvhorizon.recording.write import write_rows
from kvhorizon.report.page import render
from kvhorizon.sim.workload.synthetic import synthesize
from kvhorizon.whatif.question import Question, prepare, what_if

SEED = 0
REQUESTS, QUICK_REQUESTS = 50_000, 3_000
OPENINGS, QUICK_OPENINGS = 5, 2
POLICIES = ("fcfs", "watermark:0.02", "kvhorizon:greedy", "kvhorizon:greedy/means", "fcfs:free-recompute")
HOSTILE = ('<img src=x onerror="console.error(1)">', '</script><a href="https://a.example">x</a>')
TENANTS = (*HOSTILE, "team-b", "", "日本")
STOPS = ["minute-policy", "minute-back", "minute-at", "minute-on"]  # of the tab key, in this order
WRONG = ("unnamed", "too_wide", "made", "unshown", "out_of_order", "unseen_focus", "same_in_the_dark")
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
            tenant=TENANTS[n % len(TENANTS)],
        )
        for n in range(len(trace))
    ]
    write_rows(folder / "load.parquet", rows, {})
    asked = Question(
        str(folder / "load.parquet"),
        gpu="a100-40gb",
        load=1.3,
        forecast="noisy:0.6",
        policies=POLICIES,
        seed=SEED,
        prefix_caching=False,
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
    named = os.environ.get("KVHORIZON_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
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
    """What the controls do, by keyboard alone; what a screen reader is told; what became of hostile names."""
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
        "made": page.locator("main img, main a").count(),
        "unshown": sum(not page.locator("main th", has_text=name[:40]).count() for name in HOSTILE),
        **tabbed(page),
        "same_in_the_dark": sum(map(operator.eq, inks(page, "light"), inks(page, "dark"))),
    }


def tabbed(page: Any) -> dict[str, int]:
    """Stops of the tab key among the controls that come out of order, and those whose focus cannot be seen."""
    page.locator(f"#{STOPS[0]}").focus()
    found = []
    page.keyboard.press("Shift+Tab")
    for _ in STOPS:
        page.keyboard.press("Tab")
        found.append(
            page.evaluate("[document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]")
        )
    names = [name for name, _ in found]
    return {"out_of_order": int(names != STOPS), "unseen_focus": sum(outline == "none" for _, outline in found)}


def inks(page: Any, scheme: str) -> list[str]:
    """Colours of the page's paper and of the figures' text, once the reader's system has changed its scheme."""
    page.emulate_media(color_scheme=scheme)
    page.wait_for_timeout(300)  # figures are painted anew
    found: list[str] = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, "
        "getComputedStyle(document.querySelector('#minute-plot .xtick text')).fill]"
    )
    return found


def faults(used: dict[str, dict[str, Any]]) -> int:
    """What is wrong in any of the views."""
    return sum(sum(one[name] for name in WRONG) + 1 - one["moved"] for one in used.values())


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
    wrong = faults(found["used"])
    return {**found, "wrong": wrong}, {
        "console_errors": target(len(found["told"]), "<=0"),
        "load_s": target(found["load_s"], "<=2"),
        "file_mb": target(path.stat().st_size / 1e6, "<=8"),
        "wrong": target(wrong, "<=0"),
    }


if __name__ == "__main__":
    main("report_browser", SEED, measure)
