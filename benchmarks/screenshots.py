"""Pictures of every page with real data, at the width of a desk and of a phone: docs/pictures/page-*.png.

Without --data it runs `tars up` in a temporary folder and lets things happen there for some minutes: eight agents
learn, a study finds better values for a role, and its proposal is left to wait beside one made by hand; others are
approved and rolled back, and a broken message is put aside. With --data it takes pictures of what runs there.
"""

import argparse
import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nats
from PIL import Image
from selenium.webdriver.remote.webdriver import WebDriver

from chromium import HOW_TO_GET, Chromium, find, opened
from tars.producers.client import Client, connect

PICTURES: Final = Path(__file__).resolve().parents[1] / "docs" / "pictures"
WIDTHS: Final = {"desktop": 1280, "phone": 390}
TALLEST: Final = {"desktop": 1400, "phone": 1900}
"""Pixels: what is below is not worth its bytes."""
COLOURS: Final = 224
READY_SECONDS: Final = 120.0
STUDY_SECONDS: Final = 300.0
ROLLOUT_SECONDS: Final = 240.0
ENVIRONMENT: Final = {
    "USE_QUICK_MODE": "true", "WATCH_EPISODES": "10", "RATE_LIMIT_PER_MINUTE": "0", "TARS_USER": "ada",
}  # fmt: skip
ENDS: Final = {"confirmed", "rolled back", "failed"}


@dataclass(frozen=True)
class Picture:
    """A page, and what is there when it is drawn."""

    name: str
    path: str
    shows: str


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Look again until it is true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not in {seconds:.0f} s: {what}")
        time.sleep(0.5)


@contextmanager
def running(folder: Path) -> Iterator[dict[str, Any]]:
    """`tars up` in a folder, for the length of the block: where everything is."""
    command = [sys.executable, "-m", "tars", "up", "--no-browser", "--data", str(folder)]
    with subprocess.Popen(command, env=os.environ | ENVIRONMENT, stdout=subprocess.DEVNULL) as process:
        try:
            until((folder / "endpoints.json").exists, READY_SECONDS, "tars up")
            yield endpoints(folder)
        finally:
            process.send_signal(signal.SIGINT)


def endpoints(folder: Path) -> dict[str, Any]:
    """Where a running `tars up` says that everything is."""
    return dict(json.loads((folder / "endpoints.json").read_text()))


def play(bus: Client, nats_url: str) -> None:
    """Let everything happen that a page can show."""
    until(lambda: len(bus.agents()) >= 8, READY_SECONDS, "eight agents")
    until(lambda: min(row.episode for row in bus.agents()) > 50, READY_SECONDS, "fifty episodes of each")
    search = bus.start_study(role="policy", trials=24, objective="pareto")
    by_hand = bus.propose({"learning_rate": 6e-4, "ent_coef": 0.02}, role="consensus", reason="a livelier consensus")
    by_hand.approve("small enough to try")
    search.wait(STUDY_SECONDS)
    until(lambda: _stage(bus, by_hand.update_id) in ENDS, ROLLOUT_SECONDS, "the end of a rollout")
    taken_back = bus.propose({"gamma": 0.95}, role="ethical", reason="does a shorter horizon do?")
    taken_back.approve("to be seen")
    until(lambda: _stage(bus, taken_back.update_id) in ENDS, ROLLOUT_SECONDS, "the end of a rollout")
    if _stage(bus, taken_back.update_id) == "confirmed":
        taken_back.roll_back("it did not help")
    bus.propose({"learning_rate": 2e-3}, role="resource", reason="twice the rate").reject("not on a Friday")
    bus.propose({"learning_rate": 1.5e-4}, role="ethical", reason="half the rate, for the night")
    asyncio.run(_break(nats_url))
    time.sleep(8)


def _stage(bus: Client, update_id: str) -> str:
    row = bus.update(update_id)
    return row.stage if row else ""


async def _break(nats_url: str) -> None:
    """Send what no worker can read."""
    client = await nats.connect(nats_url)
    await client.jetstream().publish("tars.command.update.approve.v1.u-17", b'{"update_id": "u-17", "reason": 7}')
    await client.close()


def pictures(bus: Client) -> list[Picture]:
    """Each page, and the page of one thing where it has any."""
    confirmed = next(row for row in bus.updates() if row.read_backs)
    return [
        Picture("agents", "/agents", "Values in use"),
        Picture("agent", f"/agents?id={bus.agents()[0].agent_id}", "Values in use"),
        Picture("approvals", "/approvals", "for approval"),
        Picture("propose", "/approvals?propose=policy", "Strictness"),
        Picture("changes", "/changes", "opens its audit"),
        Picture("change", f"/changes?id={confirmed.update_id}", "What it changes"),
        Picture("studies", "/studies", "Objective"),
        Picture("coordination", "/coordination", "Distance from an equilibrium"),
        Picture("pipeline", "/pipeline", "Dead letters"),
    ]


def take(driver: WebDriver, address: str, picture: Picture, form: str) -> Path:
    """Open a page, let it draw all it has, and write the picture."""
    size = {"width": WIDTHS[form], "deviceScaleFactor": 1, "mobile": form == "phone"}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**size, "height": 900})
    driver.get(address + picture.path)
    until(lambda: picture.shows in driver.execute_script("return document.body.innerText"), 60, picture.name)
    time.sleep(2)
    tall = driver.execute_script("return document.querySelector('[data-testid=\"stMainBlockContainer\"]').scrollHeight")
    height = min(int(tall) + 60, TALLEST[form])
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**size, "height": height})
    time.sleep(3)
    found = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    path = PICTURES / f"page-{picture.name}-{form}.png"
    found.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    return path


def main() -> None:
    """Run or find a stack, and take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, metavar="DIR", help="take pictures of the `tars up` that runs there")
    parser.add_argument("--only", metavar="NAME", nargs="*", help="these pages alone")
    options = parser.parse_args()
    chromium = find()
    if chromium is None:
        sys.exit(HOW_TO_GET)
    with tempfile.TemporaryDirectory(prefix="tars-pictures-", ignore_cleanup_errors=True) as name:
        folder = (options.data or Path(name)).resolve()
        os.environ["TARS_DATA"] = str(folder)  # where the operator's key is
        if options.data is None:
            with running(folder) as places, connect(places["nats"]) as bus:
                play(bus, places["nats"])
                _take_all(chromium, bus, places["dashboard"], options.only)
        else:
            places = endpoints(folder)
            with connect(places["nats"]) as bus:
                _take_all(chromium, bus, places["dashboard"], options.only)


def _take_all(chromium: Chromium, bus: Client, address: str, only: list[str] | None) -> None:
    with opened(chromium) as driver:
        for picture in pictures(bus):
            for form in WIDTHS:
                if not only or picture.name in only:
                    path = take(driver, address, picture, form)
                    print(f"{path.relative_to(PICTURES.parents[1])}  {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
