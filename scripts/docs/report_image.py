"""docs/images/report.png: the top of a real run's report, in a real browser.

PYTHONPATH=. python scripts/docs/report_image.py
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "docs" / "images" / "report.png"
WIDTH, HEIGHT = 1200, 1000
SPEC = """\
version: 1
name: colours
mode: sft
base_checkpoint: base
dataset: {path: data.jsonl}
method: lora
lora: {r: 16, alpha: 32}
training: {batch_size: 4, grad_accumulation_steps: 1, epochs: 20, learning_rate: 3.0e-3, scheduler: cosine}
trainer_args: {validation-split: 8, eval-steps: 10}
output_dir: out
resources: {gpus: none}
runner: process
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "colours")
        folder.mkdir()
        run(folder, "-m", "dimba.trainers.tiny", "make", str(folder))
        (folder / "job.yaml").write_text(SPEC, encoding="utf-8")
        run(folder, "-m", "dimba", "launch", "job.yaml")
        path = run(folder, "-m", "dimba", "report", "colours").strip()
        IMAGE.parent.mkdir(exist_ok=True)
        photograph(Path(path))
    print(f"{IMAGE.relative_to(ROOT)}: {IMAGE.stat().st_size:,} bytes")


def run(folder: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, check=True, text=True, stdout=-1)
    return done.stdout


def photograph(report: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(report.as_uri())
        page.wait_for_selector("#plot-loss .legend")
        box = page.locator("#plot-loss .nsewdrag").first.bounding_box()
        assert box
        page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] / 2)  # shows the values of a step
        page.wait_for_timeout(500)
        page.screenshot(path=IMAGE)
        browser.close()


if __name__ == "__main__":
    main()
