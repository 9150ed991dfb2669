"""Takes the screenshots of docs/gallery.md: python dev/shoot_explorer.py [CHECKPOINT …]

It serves the page of tree-ssm explore to this machine, opens it in a headless Chromium, and clicks a pixel. The first
picture is of a wide screen with MambaTree, the second one of a phone with QuadMamba.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image

from ssm_train.apis.explore import Address, Explorer, open_models, served

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
QUALITY = 85  # of WebP
PHOTO = 7  # number of the example
SIDE = 896  # pixels in which the networks see it on the wide screen


def shoot(page, name: str, wide: bool) -> None:
    """Write what is seen of a page, and of a wide one also what is below."""
    Image.open(io.BytesIO(page.screenshot(full_page=wide))).convert("RGB").save(
        IMAGES / name, quality=QUALITY, method=6
    )


def changed(page, name: str, action) -> None:
    """Do something, and wait until a picture has changed."""
    old = page.locator(f"#{name} img").first.get_attribute("src")
    action()
    page.wait_for_function(
        "([name, old]) => document.querySelector(`#${name} img`)?.src !== old", arg=[name, old], timeout=60_000
    )


def main(sources: list[str]) -> None:
    """Take both screenshots."""
    from playwright.sync_api import sync_playwright

    explorer = Explorer(open_models(sources), max_megapixels=40)
    with served(explorer, Address()) as served_page, sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for (width, height), name in (
            ((1440, 900), "gallery_explorer.webp"),
            ((390, 1900), "gallery_explorer_phone.webp"),
        ):
            page = chromium.new_page(viewport={"width": width, "height": height})
            page.goto(served_page.url)
            page.locator("#all_affinities img").last.wait_for(state="attached", timeout=60_000)
            changed(page, "all_affinities", lambda page=page: page.locator("#photos button").nth(PHOTO).click())
            if width < 1000:
                page.get_by_role("tab", name="QuadMamba").click()
                page.locator("#all_quadtrees img").last.wait_for(state="attached")
            else:
                page.locator("#mambatreev_other input").click()
                page.get_by_role("option", name="random weights").click()
                page.locator("#other_tree img").wait_for()
                changed(page, "all_affinities", lambda page=page: page.get_by_text(f"{SIDE} × {SIDE}").click())
            picture = page.locator("#photo img").bounding_box()
            place = {"x": 0.52 * picture["width"], "y": 0.53 * picture["height"]}
            last = "all_affinities" if width > 1000 else "all_quadtrees"
            changed(page, last, lambda page=page, place=place: page.locator("#photo img").click(position=place))
            page.evaluate("scrollTo(0, document.body.scrollHeight)")  # pictures far below are loaded when they are near
            page.wait_for_timeout(1000)
            page.evaluate("scrollTo(0, 0)")
            shoot(page, name, width > 1000)
        chromium.close()


if __name__ == "__main__":
    main(sys.argv[1:])
