"""How long `compare` and its page take with 105 runs: `python experiments/speed/report.py`, CSV out.

7 methods x 5 categories x 3 seeds of random scores, 150 test images and 18 pictures each. The page is opened thrice
in Debian's Chromium without a window; `page_ready_s` is from the start of the navigation to the last script.
"""

import csv
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

sys.path.insert(0, str(Path(__file__).parents[2]))  # for the helpers of the tests
from tests.report.synthetic import write_sweep


def opened(page: Path) -> tuple[float, float]:
    """Seconds until the page is ready, and from the click on a cell to its pictures being decoded."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        driver.get(page.as_uri())
        ready = driver.execute_script("return performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
        cell = driver.execute_async_script(
            "const done = arguments[0], start = performance.now(); document.querySelector('#matrix .cell').click();"
            "document.querySelectorAll('#gallery img').forEach((picture) => (picture.loading = 'eager'));"
            "Promise.all([...document.images].map((picture) => picture.decode()))"
            ".then(() => done(performance.now() - start))"
        )
    finally:
        driver.quit()
    return ready / 1000, cell / 1000


with tempfile.TemporaryDirectory() as folder:
    count = write_sweep(Path(folder))
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "anomaly_lab", "compare", folder], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    page = Path(folder) / "report.html"
    ready, cell = (statistics.median(values) for values in zip(*(opened(page) for _ in range(3)), strict=True))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("runs", "compare_s", "page_mb", "page_ready_s", "cell_s"))
    size = page.stat().st_size / 1e6
    writer.writerow((count, round(seconds, 2), round(size, 1), round(ready, 2), round(cell, 2)))
