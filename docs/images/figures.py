"""Draw the figures of the documentation again, each from what it shows: ``make figures``.

    docs/paper/*.png                     the JSON files beside them
    leaderboard-*.png                    results of mrl-text eval: make figures RESULTS="minilm wordllama"
    quickstart-curve.png, report-*.png   runs/quickstart, which make demo makes
    cascade-tags.png                     labelled texts, text,label: make figures TAGS=tags.csv

A figure whose source is not given, or not there, stays as it is, and a line says so. Pictures of pages need Chromium
with its driver, and selenium (the extra ``dev``).
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from mrl_text.eval.published import packaged
from mrl_text.eval.site import read_sources, write_site
from mrl_text.figures import draw_panels
from mrl_text.paper import QUESTIONS

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs/images"

Views = dict[str, tuple[int, int, bool]]  # name of the picture -> width, height, whether of a phone
REPORT: Views = {"report-desktop": (1280, 1560, False), "report-phone": (500, 1560, False)}
LEADERBOARD: Views = {"leaderboard-desktop": (1280, 1500, False), "leaderboard-phone": (375, 1100, True)}
COMPARE_TWO = """
for (const place of [0, 1]) document.querySelectorAll("#board tbody button")[place].click();
document.getElementById(innerWidth < 600 ? "versus" : "controls").closest("section").scrollIntoView();
if (innerWidth >= 600) scrollTo(0, 0);
"""


def main() -> None:
    """Draw what can be drawn, and say of the rest what it needs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, nargs="*", default=[], help="folders of mrl-text eval")
    parser.add_argument("--quickstart", type=Path, default=ROOT / "runs/quickstart")
    parser.add_argument("--tags", type=Path, help="CSV of text,label")
    parser.add_argument("--model", default="all-MiniLM-L6-v2", help="of the cascade")
    arguments = parser.parse_args()
    _paper(ROOT / "docs/paper")
    if (arguments.quickstart / "eval/report.html").is_file():
        _quickstart(arguments.quickstart / "eval")
    else:
        print(f"quickstart-curve.png, report-*.png: left as they are, no {arguments.quickstart}; make demo makes it")
    if arguments.results:
        _leaderboard(arguments.results)
    else:
        print('leaderboard-*.png: left as they are; make figures RESULTS="FOLDER ..." draws them (docs/leaderboard.md)')
    if arguments.tags:
        _cascade(arguments.tags, arguments.model)
    else:
        print("cascade-tags.png: left as it is; make figures TAGS=FILE draws it (docs/classifying.md)")


def _paper(folder: Path) -> None:
    for name, question in QUESTIONS.items():
        file = folder / f"{name}.json"
        answer = json.loads(file.read_text(encoding="utf-8"))["result"] if file.is_file() else None
        if answer is not None and (panels := question.panels(answer)):
            draw_panels(panels, _told(folder / f"{name}.png"))


def _quickstart(folder: Path) -> None:
    shutil.copy(folder / "curve.png", _told(IMAGES / "quickstart-curve.png"))
    _photograph(folder / "report.html", REPORT)


def _leaderboard(results: list[Path]) -> None:
    with TemporaryDirectory() as site:
        write_site(Path(site), *read_sources(results, [packaged()]))
        _photograph(Path(site) / "index.html", LEADERBOARD, COMPARE_TWO)


def _cascade(tags: Path, model: str) -> None:
    with TemporaryDirectory() as folder:
        script = ROOT / "benchmarks/classification.py"
        command = [sys.executable, str(script), model, "--tags", str(tags), "--output", folder]
        subprocess.run(command, check=True)
        shutil.copy(Path(folder) / "stack.png", _told(IMAGES / "cascade-tags.png"))


def _photograph(page: Path, views: Views, script: str = "") -> None:
    """Open a page at each size and save what is seen, in 256 colours."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in "--headless --no-sandbox --disable-gpu --disable-background-networking --hide-scrollbars".split():
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        for name, (width, height, mobile) in views.items():
            size = {"width": width, "height": height, "deviceScaleFactor": 2 if mobile else 1, "mobile": mobile}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            driver.get(page.resolve().as_uri())
            driver.execute_script(script)
            raw = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
            picture = Image.open(io.BytesIO(base64.b64decode(raw))).convert("RGB").quantize(256)
            picture.save(_told(IMAGES / f"{name}.png"), optimize=True)
    finally:
        driver.quit()


def _told(file: Path) -> Path:
    print(file.relative_to(ROOT))
    return file


if __name__ == "__main__":
    main()
