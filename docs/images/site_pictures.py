"""Pictures of a leaderboard site, on a desktop and on a phone: python docs/images/site_pictures.py SITE FOLDER.

It needs Chromium with its driver and selenium. Colours are reduced to 256.
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

VIEWS = {"leaderboard-desktop": (1280, 1500, False), "leaderboard-phone": (375, 1100, True)}


def main(site: Path, folder: Path) -> None:
    """Write one PNG for each view."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in "--headless --no-sandbox --disable-gpu --disable-background-networking --hide-scrollbars".split():
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        for name, (width, height, mobile) in VIEWS.items():
            size = {"width": width, "height": height, "deviceScaleFactor": 2 if mobile else 1, "mobile": mobile}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            driver.get((site / "index.html").resolve().as_uri())
            for place in (0, 1):  # two rows to compare
                driver.execute_script("document.querySelectorAll('#board tbody button')[arguments[0]].click()", place)
            start = "versus" if mobile else "controls"  # a phone shows the comparison and the table
            driver.execute_script("document.getElementById(arguments[0]).closest('section').scrollIntoView()", start)
            if not mobile:
                driver.execute_script("window.scrollTo(0, 0)")
            raw = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
            picture = Image.open(io.BytesIO(base64.b64decode(raw))).convert("RGB").quantize(256)
            picture.save(folder / f"{name}.png", optimize=True)
    finally:
        driver.quit()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
