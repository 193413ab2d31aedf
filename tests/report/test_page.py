"""The page in a browser: Debian's Chromium without a window, opened from file://, as a user would."""

import itertools
import json
from pathlib import Path

import pytest

from anomaly_lab.report.groups import group
from anomaly_lab.report.html import page, write_report
from anomaly_lab.report.matrix import matrices
from anomaly_lab.runs.collect import collect
from tests.report.synthetic import read_metrics, write_folds, write_run

pytestmark = pytest.mark.slow  # a browser
WINDOW = {"width": 1300, "height": 900, "deviceScaleFactor": 1, "mobile": False}
HOSTILE = "</script><img src=x onerror=\"document.title='broken'\">"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two methods, three categories, two seeds; one run failed, one is running, one has a hostile name."""
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        for i, category in enumerate(("carpet", "screw", "zipper")):
            write_run(root, "cae", category=category, seed=seed, strength=0.5 + i, pictures=2, aupro=0.6)
            write_run(root, "ganomaly", category=category, seed=seed, strength=2.5 - i / 2, pictures=2, aupro=0.7)
    write_run(root, "cae", seed=2, state="failed", error=f"ValueError: {HOSTILE}")
    write_run(root, "cae", seed=3, state="running")
    names = [f"{HOSTILE.replace('/', '-')}{i}{'x' * 250}" for i in range(40)]
    write_run(root, "ssim_ae", "folder", "photos", names=names, pictures=1, method__latent="<b>&")
    return root


def compare(root):
    """The page of all runs below a folder."""
    runs = collect([root])
    groups = group([run for run in runs if run.done])
    (root / "report.html").write_text(page(runs, groups, matrices(groups)))
    return root / "report.html"


@pytest.fixture(scope="module")
def comparison(sweep):
    return compare(sweep)


# What the script of the page does at its start, but on the page that is there.
RESTART = """
const fresh = {level: null, measure: null, dataset: '', text: '', controls: true, published: true, sort: null};
Object.assign(view, fresh, {down: true, open: null});
Object.assign(costs, {x: null});
pair.fill(null);
byId('detail').hidden = true;
byId('detail').replaceChildren();
history.replaceState(null, '', location.pathname);
startView();
redraw();
drawDifferences();
document.activeElement.blur();
"""


@pytest.fixture
def opened(browser, comparison):
    """The page of the sweep as at its start; it is loaded only where another page was shown meanwhile."""
    if browser.current_url.partition("#")[0] != comparison.as_uri():
        return open_page(browser, comparison)
    browser.execute_script(RESTART)
    console(browser)  # what earlier tests left there
    return browser


def open_page(browser, path: Path, link=""):
    """The page, once its script has run: on a busy machine the driver answers before."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get("about:blank")
    browser.get(path.as_uri() + link)
    ready = "return document.URL.split('#')[0] === arguments[0].split('#')[0] && document.documentElement.dataset.ready"
    assert WebDriverWait(browser, 30).until(lambda page: page.execute_script(ready, path.as_uri())) == "yes"
    return browser


def console(browser):
    return [entry["message"] for entry in browser.get_log("browser")]


def texts(browser, selector):
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((node) => node.textContent)", selector
    )


def click(browser, selector):
    from selenium.webdriver.common.by import By

    element = browser.find_element(By.CSS_SELECTOR, selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def choose(browser, label, value):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element(By.ID, f"choose-{label}")).select_by_value(value)


def cell(browser, row, column, selector="#methods"):
    """The number in a row and a column of the matrix, by their names."""
    return browser.execute_script(
        """const heads = [...document.querySelectorAll('#matrix thead tr:last-child th')].map((n) => n.textContent);
        const rows = [...document.querySelectorAll(arguments[2] + ' tr')];
        const row = rows.find((n) => n.cells[0].textContent.startsWith(arguments[0]));
        const value = row.cells[heads.indexOf(arguments[1])].dataset.value;
        return value === undefined ? null : Number(value)""",
        row, column, selector,
    )  # fmt: skip


def open_cell(browser, row, column):
    place = browser.execute_script(
        """const row = DATA.rows.findIndex((r) => r.label === arguments[0]);
        return `${row},${DATA.columns.findIndex((c) => c.label === arguments[1])}`""",
        row, column,
    )  # fmt: skip
    click(browser, f"#matrix [data-place='{place}']")


def number_of(browser, name):
    """The number of the run whose folder has this name."""
    return browser.execute_script("return DATA.runs.find((run) => run.shown.includes(arguments[0])).id", name)


def decision(browser, key):
    value = browser.execute_script(f"return document.querySelector('[data-decision={key}]').dataset.value")
    return float(value)


def test_the_matrix_shows_the_means_of_metrics_json_and_says_nothing_on_the_console(opened, sweep):
    for method in ("cae", "ganomaly"):
        for category in ("carpet", "screw", "zipper"):
            values = [
                read_metrics(sweep / f"sweep/{method}/mvtec_ad/{category}/seed={seed}/0123456789")["image_auroc"]
                for seed in (0, 1)
            ]
            assert cell(opened, method, category) == pytest.approx(sum(values) / 2, abs=1e-12)
            assert f"{sum(values) / 2:.3f}".removeprefix("0") in " ".join(texts(opened, "#methods td"))
    assert cell(opened, "pca", "screw", "#controls") == 0.75
    assert cell(opened, "ganomaly", "screw", "#published") is None  # text only: no figure of ours
    assert "Tang et al." in " ".join(texts(opened, "#published th"))
    assert console(opened) == []


def test_columns_sort_both_ways(opened):
    def order():
        return [text.replace(" ", "") for text in texts(opened, "#methods th")]

    key = opened.execute_script("return 'c' + DATA.columns.findIndex((c) => c.label === 'carpet')")
    click(opened, f"#matrix [data-sort='{key}']")
    down = [cell(opened, name, "carpet") for name in ("ganomaly", "cae")]
    assert down == sorted(down, reverse=True)
    assert order()[:2] == ["ganomaly", "cae"]
    assert (
        opened.execute_script(f"return document.querySelector('[data-sort={key}]').parentElement.ariaSort")
        == "descending"
    )
    click(opened, f"#matrix [data-sort='{key}']")
    assert order()[:2] == ["cae", "ganomaly"]
    click(opened, "#matrix [data-sort='name']")
    assert [name.partition("latent")[0] for name in order()] == ["cae", "ganomaly", "ssim_ae"]


def test_level_metric_data_and_text_filter(opened):
    choose(opened, "Metric", "image_f1")
    assert cell(opened, "cae", "screw") != 0.6
    click(opened, "#Level-pixel")
    assert cell(opened, "cae", "screw") == pytest.approx(0.6)
    assert opened.execute_script("return document.activeElement.id") == "Level-pixel"
    click(opened, "#Level-image")
    assert "photos" in texts(opened, "#matrix thead tr:last-child th")
    choose(opened, "Data", "mvtec_ad")
    assert texts(opened, "#matrix thead tr:last-child th") == ["method", "carpet", "screw", "zipper", "mean"]
    assert len(texts(opened, "#methods tr")) == 2
    opened.execute_script(
        "const box = document.getElementById('filter'); box.value = 'gano'; box.dispatchEvent(new Event('input'))"
    )
    assert texts(opened, "#methods th") == ["ganomaly"]
    opened.execute_script(
        "const box = document.getElementById('filter'); box.value = 'nono'; box.dispatchEvent(new Event('input'))"
    )
    assert texts(opened, "#methods tr") == ["No method matches"]
    assert console(opened) == []


def test_a_cell_opens_its_run_whose_numbers_are_those_of_metrics_json(opened, sweep):
    open_cell(opened, "ganomaly", "zipper")
    for seed in (0, 1):
        click(opened, f"#Seed-{number_of(opened, f'ganomaly/mvtec_ad/zipper/seed={seed}')}")
        metrics = read_metrics(sweep / f"sweep/ganomaly/mvtec_ad/zipper/seed={seed}/0123456789")
        shown = opened.execute_script(
            "return Number(document.querySelector('[data-metric=image_auroc]').dataset.value)"
        )
        assert shown == metrics["image_auroc"]
        names = ("accuracy_normal", "accuracy_abnormal", "balanced_accuracy", "precision", "recall", "f1")
        for name in (f"image_{name}" for name in names):
            assert decision(opened, name) == pytest.approx(metrics[name], abs=1e-12), name
    titles = " ".join(texts(opened, "#detail figcaption"))
    for title in ("ROC of images", "Precision and recall", "PRO", "Losses", "Every image", "Histogram"):
        assert title in titles
    assert "area .700" in titles
    assert console(opened) == []


def test_the_slider_recolours_decisions_and_counts_anew(opened, sweep):
    open_cell(opened, "cae", "screw")
    before = [
        opened.execute_script(f"return document.querySelectorAll('#detail svg .{name}').length")
        for name in ("right", "mistake")
    ]
    assert sum(before) == 40
    lowest = opened.execute_script(
        """const slider = document.getElementById('threshold'); slider.value = slider.min;
        slider.dispatchEvent(new Event('input')); return Number(slider.value)"""
    )
    assert decision(opened, "image_recall") == 1
    assert decision(opened, "image_accuracy_normal") == 0
    assert decision(opened, "image_precision") == 0.5
    assert opened.execute_script("return document.querySelectorAll('#detail svg .mistake').length") == 20
    assert set(texts(opened, ".shot .verdict")) == {"found", "false alarm"}
    assert float(opened.execute_script("return document.getElementById('threshold-value').value")) == lowest
    click(opened, "#threshold-back")
    metrics = read_metrics(sweep / "sweep/cae/mvtec_ad/screw/seed=0/0123456789")
    assert decision(opened, "image_recall") == pytest.approx(metrics["image_recall"])


def test_a_key_moves_the_threshold_by_a_thousandth(opened):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    open_cell(opened, "cae", "screw")
    slider = opened.find_element(By.ID, "threshold")
    low, high, before = (float(slider.get_attribute(name)) for name in ("min", "max", "value"))
    slider.send_keys(Keys.ARROW_RIGHT)
    assert float(slider.get_attribute("value")) - before == pytest.approx((high - low) / 1000, rel=1e-6)


def test_an_exact_threshold_that_is_no_number_is_put_back(opened):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    open_cell(opened, "cae", "screw")
    exact = opened.find_element(By.ID, "threshold-value")
    exact.send_keys(Keys.CONTROL, "a")
    exact.send_keys("0.5")
    recall = decision(opened, "image_recall")
    for typed in ("", "-", "e"):
        exact.send_keys(Keys.CONTROL, "a")
        exact.send_keys(Keys.BACKSPACE, typed)
        assert exact.get_attribute("value") == ""
        exact.send_keys(Keys.TAB)
        state = opened.execute_script("const box = arguments[0]; return [box.value, box.validity.valid]", exact)
        assert state == ["0.5", True], typed
        assert decision(opened, "image_recall") == recall


def test_the_threshold_decides_as_the_program_does_at_every_score(opened, sweep):
    """Also exactly at a score: an image is abnormal where it is reached."""
    open_cell(opened, "cae", "screw")
    scores, labels = opened.execute_script(
        "const run = DATA.runs.find((r) => r.shown.includes('cae/mvtec_ad/screw/seed=0'));"
        "return [run.decisions, DATA.columns[run.column].images.map((i) => i[2])]"
    )
    assert len(scores) == 40
    for threshold in sorted(scores)[::8]:
        opened.execute_script(
            "const box = document.getElementById('threshold-value'); box.value = arguments[0];"
            "box.dispatchEvent(new Event('input'))", str(threshold),
        )  # fmt: skip
        found = [label for score, label in zip(scores, labels, strict=True) if score >= threshold]
        assert decision(opened, "image_precision") == pytest.approx(sum(found) / len(found))
        assert decision(opened, "image_recall") == pytest.approx(sum(found) / 20)


def test_the_gallery_shows_the_worst_first_with_words_for_who_cannot_see(opened):
    open_cell(opened, "cae", "screw")
    assert [text.split()[0] for text in texts(opened, "#in-words p")] == ["Found", "Image", "An"]
    assert texts(opened, "#gallery h3") == [
        "Defective images with the lowest scores",
        "Good images with the highest scores",
        "Chosen at random",
    ]
    opened.execute_script("document.querySelectorAll('#gallery img').forEach((n) => (n.loading = 'eager'))")
    opened.execute_async_script(
        "const pictures = [...document.querySelectorAll('#gallery img')];"
        "Promise.all(pictures.map((picture) => picture.decode())).then(arguments[0])"
    )
    shots = opened.execute_script(
        "return [...document.querySelectorAll('#gallery img')].map((n) => [n.naturalWidth, n.naturalHeight, n.alt])"
    )
    assert len(shots) == 6
    assert all(shot[:2] == [480, 160] and "image, overlay, mask" in shot[2] for shot in shots)
    assert texts(opened, ".shot .tiles") == ["from the left: image, overlay, mask"] * 6


def test_the_gallery_says_where_there_is_nothing_to_blame(opened):
    open_cell(opened, "cae", "screw")
    for end, selector, said in (("min", "#about-misses", "0 of 20 defective images missed"),
                                ("max", "#about-alarms", "0 of 20 good images rejected")):  # fmt: skip
        opened.execute_script(
            "const slider = document.getElementById('threshold'); slider.value = slider[arguments[0]];"
            "slider.dispatchEvent(new Event('input'))", end,
        )  # fmt: skip
        assert texts(opened, selector)[0].startswith(said)


def test_the_keyboard_reaches_everything(opened):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    first = opened.find_element(By.CSS_SELECTOR, "#matrix .cell")
    opened.execute_script("arguments[0].focus()", first)
    first.send_keys(Keys.ARROW_DOWN)
    active = opened.switch_to.active_element
    assert active.get_attribute("class") == "cell"
    assert active != first
    place = active.get_attribute("data-place")
    active.send_keys(Keys.ENTER)
    assert opened.execute_script("return document.activeElement.id") == "detail"
    slider = opened.find_element(By.ID, "threshold")
    before = slider.get_attribute("value")
    slider.send_keys(Keys.ARROW_RIGHT)
    assert slider.get_attribute("value") != before
    slider.send_keys(Keys.ESCAPE)
    assert opened.execute_script("return document.getElementById('detail').hidden")
    assert opened.execute_script("return document.activeElement.dataset.place") == place


def test_escape_closes_the_cell_wherever_the_focus_is(opened):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    click(opened, "#matrix .cell")
    opened.execute_script("document.activeElement.blur()")
    opened.find_element(By.TAG_NAME, "body").send_keys(Keys.ESCAPE)
    assert opened.execute_script("return document.getElementById('detail').hidden && location.hash === ''")


def test_a_cell_has_a_link_that_opens_it(browser, comparison, opened):
    click(opened, "#matrix .cell[data-place='1,1']")
    link, head = opened.execute_script("return [location.hash, document.querySelector('#detail h2').textContent]")
    assert link == "#ganomaly/mvtec_ad/carpet"
    assert texts(open_page(browser, comparison, link), "#detail h2") == [head]


def test_every_picture_chart_and_control_has_a_name(opened):
    open_cell(opened, "cae", "screw")
    nameless = opened.execute_script(
        """const bad = [];
        for (const n of document.querySelectorAll('svg[role=img]')) if (!n.ariaLabel) bad.push(n.outerHTML);
        for (const n of document.images) if (!n.alt) bad.push('img');
        const fields = document.querySelectorAll('input, select');
        for (const n of fields) if (!n.labels.length && !n.ariaLabel) bad.push(n.id);
        for (const n of document.querySelectorAll('button')) if (!n.textContent.trim()) bad.push('button');
        return bad"""
    )
    assert nameless == []


def test_failed_and_running_runs_and_hostile_names_are_told_as_text(opened):
    said = " ".join(texts(opened, "#other-runs tr"))
    assert "failed" in said
    assert "running" in said
    assert HOSTILE in said
    open_cell(opened, "ssim_ae", "photos")
    assert HOSTILE.replace("/", "-") in " ".join(texts(opened, ".shot p"))
    assert opened.title != "broken"
    assert opened.execute_script("return [...document.images].every((n) => n.src.startsWith('data:image/webp'))")
    assert "<b>&" in " ".join(texts(opened, "#detail details td"))
    assert console(opened) == []


def test_settings_of_two_runs(opened):
    ids = {
        name: str(number_of(opened, name))
        for name in ("cae/mvtec_ad/screw/seed=0", "cae/mvtec_ad/screw/seed=1", "ssim_ae/folder/photos")
    }
    choose(opened, "Run", ids["cae/mvtec_ad/screw/seed=0"])
    choose(opened, "and", ids["cae/mvtec_ad/screw/seed=1"])
    assert texts(opened, "#difference-table tbody th") == ["seed", "method.seed"]
    choose(opened, "and", ids["ssim_ae/folder/photos"])
    rows = texts(opened, "#difference-table tbody tr")
    assert {"data.namemvtec_adfolder", "data.categoryscrewphotos"} <= set(rows)
    assert any(row.startswith("method.latent") and row.endswith("<b>&") for row in rows)


def test_an_axis_of_costs_that_hardly_differ_has_several_ticks(opened):
    ticks = "return [logTicks(3.1, 4.4), logTicks(0.011, 0.013), logTicks(1, 1000)].map((ticks) => ticks.length)"
    assert all(count > 1 for count in opened.execute_script(ticks))


def test_quality_against_cost_follows_the_metric(opened):
    def label():
        return opened.execute_script("return document.querySelector('#cost-plot svg[role=img]').ariaLabel")

    assert label().startswith("image AUROC against method alone, seconds per image: cae ")
    choose(opened, "Cost", "fit_seconds")
    click(opened, "#Level-pixel")
    assert label().startswith("AU-PRO against training, seconds: cae .600 at ")


def test_a_narrow_window_scrolls_the_table_and_not_the_page(browser, opened):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**WINDOW, "width": 360, "height": 700})
    try:
        open_cell(opened, "ssim_ae", "photos")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("width", [1300, 360])
def test_pictures_keep_their_proportions(browser, opened, width):
    """In a wide and in a narrow window."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**WINDOW, "width": width})
    try:
        open_cell(opened, "cae", "screw")
        assert_in_proportion(opened, 6)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def proportions(browser):
    """Width over height of every picture, as it is drawn and as it is."""
    return browser.execute_async_script(
        """const pictures = [...document.querySelectorAll('#gallery img')], done = arguments[0];
        pictures.forEach((n) => (n.loading = 'eager'));
        Promise.all(pictures.map((n) => n.decode())).then(() => done(pictures.map((n) => {
          const box = n.getBoundingClientRect();
          return [box.width / box.height, n.naturalWidth / n.naturalHeight];
        })));"""
    )


def assert_in_proportion(browser, count):
    shown = proportions(browser)
    assert len(shown) == count
    for drawn, natural in shown:
        assert drawn == pytest.approx(natural, rel=0.02)


LIGHT = """const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const light = (alpha, ...colors) => {
  for (const color of colors) {
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    canvas.globalAlpha = alpha;
  }
  canvas.globalAlpha = 1;
  const linear = (v) => (v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => linear(v / 255));
  return .2126 * r + .7152 * g + .0722 * b + .05; };
const contrast = (a, b) => Math.max(a, b) / Math.min(a, b);
const page = getComputedStyle(document.documentElement).backgroundColor;"""


@pytest.fixture
def scheme(browser):
    """Switches the page that is shown between light and dark, and waits until it is drawn."""

    def switch(name):
        feature = {"name": "prefers-color-scheme", "value": name}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(() => arguments[0]()))")

    yield switch
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("name", ["dark", "light"])
def test_text_can_be_read_on_every_cell_in_light_and_dark(opened, scheme, name):
    """WCAG AA asks for a contrast of 4.5."""
    scheme(name)
    assert opened.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches") == (name == "dark")
    worst = opened.execute_script(
        f"""{LIGHT}
        const ink = (n) => light(1, getComputedStyle(n).color);
        const paper = (n) => light(1, getComputedStyle(n.closest('td')).backgroundColor);
        const cells = [...document.querySelectorAll('#matrix .shade :is(.figure, small)')];
        return Math.min(...cells.map((n) => contrast(ink(n), paper(n))),
          contrast(ink(document.getElementById('about')), light(1, page)))"""
    )
    assert worst > 4.5


def test_small_marks_can_be_seen_in_the_dark(opened, scheme):
    """WCAG asks for a contrast of 3 for what is drawn."""
    scheme("dark")
    marks = opened.execute_script(
        f"""{LIGHT}
        return [...document.querySelectorAll('#cost-plot .small-mark')].map((n) => {{
          const style = getComputedStyle(n);
          return contrast(light(Number(style.fillOpacity), page, style.fill), light(1, page)); }})"""
    )
    assert len(marks) == 7
    assert min(marks) > 3


def test_pictures_are_decoded_only_when_a_cell_is_opened(browser, comparison):
    opened = open_page(browser, comparison)
    assert opened.execute_script("return document.images.length") == 0
    open_cell(opened, "cae", "screw")
    assert opened.execute_script("return document.images.length") == 6
    assert console(opened) == []


# Other pages


def test_a_mean_of_fewer_categories_stands_after_those_of_all_up_and_down(browser, tmp_path):
    for method, strength, categories in (
        ("cae", 1.0, 2),
        ("ganomaly", 5.0, 1),
        ("ssim_ae", 2.0, 2),
        ("anogan", 0.1, 1),
    ):
        for category in ("carpet", "screw")[:categories]:
            write_run(tmp_path, method, category=category, strength=strength)
    open_page(browser, compare(tmp_path))
    click(browser, "#matrix [data-sort='name']")
    click(browser, "#matrix [data-sort='mmvtec_ad']")
    assert texts(browser, "#methods th") == ["ssim_ae", "cae", "ganomaly", "anogan"]
    assert "1 of 2" in " ".join(texts(browser, "#methods small"))
    click(browser, "#matrix [data-sort='mmvtec_ad']")
    assert texts(browser, "#methods th") == ["cae", "ssim_ae", "anogan", "ganomaly"]


def test_folds_have_their_mean_beside_another_data_set(browser, tmp_path):
    write_folds(tmp_path, {0: 0.5, 1: 0.6, 2: 0.7}, folds=3, method="cae")
    write_folds(tmp_path, {0: 0.9, 2: 0.8}, folds=3, method="vae")
    for category in ("carpet", "screw"):
        write_run(tmp_path, category=category, aupro=0.4)
    open_page(browser, compare(tmp_path))
    script = "view.level = 'pixel'; view.measure = 'pixel_aupro'; redraw();"
    browser.execute_script(script)
    assert texts(browser, "#matrix thead tr:last-child th") == [
        "method", "carpet", "screw", "mean", "screw (fold 0 of 3)", "screw (fold 1 of 3)", "screw (fold 2 of 3)",
        "screw, mean of 3 folds",
    ]  # fmt: skip
    assert texts(browser, "#matrix thead .dataset") == ["mvtec_ad", "mvtec_ad, supervised"]
    click(browser, "#matrix [data-sort='mmvtec_ad, supervised/screw/3']")
    assert texts(browser, "#methods th") == ["cae", "vae"]  # a mean of all folds first
    means = texts(browser, "#methods td.mean .figure")
    assert means == [".400", ".600", ".850"]
    titles = browser.execute_script(
        "return [...document.querySelectorAll('#methods td.mean span[title]')].map((n) => n.title)"
    )
    assert [title.split(", ")[1] for title in titles] == [
        "mean of 2 categories", "mean of 3 folds", "mean of 2 folds of 3",
    ]  # fmt: skip
    browser.execute_script("view.level = 'image'; view.measure = 'image_auroc'; redraw();")
    kinds, means = texts(browser, "#controls th[scope='row']"), texts(browser, "#controls td.mean")
    reached = {"brightness": ".700", "sharpness": ".600", "mean_image": ".700", "pca": ".750"}  # in every run
    assert dict(zip(kinds, zip(means[::2], means[1::2], strict=True), strict=True)) == {
        kind: (value, value) for kind, value in reached.items()
    }
    assert not console(browser)


def test_quality_against_the_number_of_good_photos(browser, tmp_path):
    for category, method, photos in itertools.product(("carpet", "screw"), ("cae", "padim"), (100, 10)):
        for seed in (0, 1):
            changes = {"strength": seed + len(method) * photos / 100, "aupro": photos / 200 + seed / 10}
            write_run(
                tmp_path, method, category=category, seed=seed, digest=f"{photos}", data__good_photos=photos, **changes
            )
    open_page(browser, compare(tmp_path))
    assert texts(browser, "#methods th small") == ["10 good photos", "100 good photos"] * 2
    choose(browser, "Category", "1")
    charts = browser.execute_script("return [...document.querySelectorAll('#photo-plots svg')].map((n) => n.ariaLabel)")
    assert charts[1] == (
        "AU-PRO against the number of good photos: cae .100 with 10, .550 with 100; padim .100 with 10, .550 with 100; "
        "strongest control .500 with 10, .500 with 100"
    )
    assert len(charts) == 2
    assert "padim, 10 good photos: .100, 2 seeds, .050 to .150" in texts(browser, "#photo-plots title")
    assert console(browser) == []


def test_epochs_are_whole_numbers(browser, tmp_path):
    """Runs of so many epochs, a category each."""
    counts = (1, 3, 7, 20)
    for epochs in counts:
        folder = write_run(tmp_path, category=f"of_{epochs}")
        lines = (folder / "curves" / "losses.csv").read_text().splitlines()
        (folder / "curves" / "losses.csv").write_text("\n".join(lines[: epochs + 1]) + "\n")
    open_page(browser, compare(tmp_path))
    for epochs in counts:
        open_cell(browser, "cae", f"of_{epochs}")
        ticks = browser.execute_script(
            """const chart = document.querySelector('#detail svg[aria-label="Losses by epoch"]');
            return [...chart.querySelectorAll('text[text-anchor=middle]')].slice(0, -1).map((n) => n.textContent)"""
        )
        assert ticks
        assert all(tick.isdecimal() and 1 <= int(tick) <= epochs for tick in ticks)
        assert len(set(ticks)) == len(ticks)


def test_states_are_counted_as_they_are_listed(browser, tmp_path):
    """Damaged and repeated runs are no done ones, as in the terminal."""
    write_run(tmp_path)
    write_run(tmp_path, seed=1)
    write_run(tmp_path, name="again")
    (write_run(tmp_path, seed=2) / "threshold.json").write_text("{")
    write_run(tmp_path, seed=3, state="failed", error="ValueError: no")
    open_page(browser, compare(tmp_path))
    told = browser.execute_script("return document.getElementById('about').textContent").partition(" · ")[0]
    assert set(told.split(", ")) == {"2 done", "1 repeated", "1 damaged", "1 failed"}
    assert sorted(texts(browser, "#other-runs .state")) == ["damaged", "failed", "repeated"]
    assert texts(browser, "#run-tables summary") == ["2 done"]


def test_fifteen_categories_and_their_mean_go_into_a_window(browser, tmp_path):
    names = ("bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw",
             "tile", "toothbrush", "transistor", "wood", "zipper")  # fmt: skip
    for name in names:
        write_run(tmp_path, "texture_inspection", category=name, images=8)
        write_run(tmp_path, "cae", category=name, images=8, method__latent=500)
    path = compare(tmp_path)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**WINDOW, "width": 1385})
    try:
        open_page(browser, path)
        right = browser.execute_script(
            "return [...document.querySelectorAll('#methods td.mean')].map((n) => n.getBoundingClientRect().right)"
        )
        scrolls = browser.execute_script(
            "const n = document.querySelector('#by-category .scroll'); return n.scrollWidth > n.clientWidth"
        )
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 1385
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert len(right) == 2
    assert max(right) <= 1385
    assert not scrolls


def test_the_report_of_one_run_opens_it_at_once(browser, tmp_path):
    folder = write_run(tmp_path, pictures=1)
    open_page(browser, write_report(folder))
    assert not browser.execute_script("return document.getElementById('detail').hidden")
    metrics = read_metrics(folder)
    assert decision(browser, "image_precision") == pytest.approx(metrics["image_precision"])
    assert browser.title == "cae on mvtec_ad screw, seed 0"
    assert_in_proportion(browser, 3)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**WINDOW, "width": 360})
    try:
        assert_in_proportion(browser, 3)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert console(browser) == []


def test_no_result_at_all_is_a_page_too(browser, tmp_path):
    write_run(tmp_path, state="running")
    open_page(browser, compare(tmp_path))
    assert "running" in " ".join(texts(browser, "#other-runs tr"))
    assert console(browser) == []


def test_images_without_a_label_and_scores_that_are_no_numbers_break_nothing(browser, tmp_path):
    folder = write_run(tmp_path, pictures=1)
    lines = (folder / "scores.csv").read_text().splitlines()
    for number, value in ((1, "nan"), (2, "inf")):
        parts = lines[number].split(",")
        parts[3] = parts[6] = value
        lines[number] = ",".join(parts)
    (folder / "scores.csv").write_text("\n".join(lines) + "\n")
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"image_precision": None}))
    open_page(browser, write_report(folder))
    assert (
        browser.execute_script("return document.querySelectorAll('#detail svg .right, #detail svg .mistake').length")
        == 38
    )
    assert decision(browser, "image_recall") > 0
    assert console(browser) == []


def test_runs_of_the_controls_stand_among_them_and_open_too(browser, tmp_path):
    for method, strength in (("cae", 0.3), ("control", 4.0)):
        write_run(tmp_path, method, strength=strength, pictures=1)
    groups = group(collect([tmp_path]))
    open_page(browser, compare(tmp_path))
    assert len(texts(browser, "#methods tr")) == 1
    mean = matrices(groups)["image_auroc"].cells[groups.rows[1], groups.columns[0]].mean
    shown = browser.execute_script("return document.querySelector('#controls td:has(.cell)').dataset.value")
    assert float(shown) == pytest.approx(mean)
    open_cell(browser, "control", "screw")
    assert not browser.execute_script("return document.getElementById('detail').hidden")
    assert console(browser) == []
