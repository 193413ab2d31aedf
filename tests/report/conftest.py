"""The browser in which pages are looked at."""

import shutil

import pytest

from tests.conftest import need


@pytest.fixture(scope="module")
def browser():
    """One Chromium for all tests of a file; warnings of its libraries are not ours."""
    there = [shutil.which(name) for name in ("chromium", "chromedriver")]
    need("browser", all(there), "no chromium and chromedriver (Debian: chromium, chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = there[0]
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1300,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(there[1]))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()
