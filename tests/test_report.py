"""The page about a clustering, as HTML and in a real browser."""

import base64
import functools
import hashlib
import html
import http.server
import json
import os
import re
import shutil
import threading
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from skcc import ContrastiveClustering, data
from skcc.report import outputs, page, thumbnails

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

HOSTILE = "<script>alert(1)</script>.png"
EVIL = '"><img src=x onerror=alert(2)>'


@pytest.fixture(scope="module")
def model(shapes):
    return ContrastiveClustering(4, max_epochs=3, batch_size=40, random_state=0).fit(shapes[0])


@pytest.fixture(scope="module")
def clustering(shapes, tmp_path_factory):
    """120 pictures in three clusters of four; one name is hostile, one file was not readable."""
    folder = tmp_path_factory.mktemp("pictures")
    files = []
    for i, image in enumerate(shapes[0]):
        # A slash cannot be in the name of a file, but in that of a path.
        name = HOSTILE if i == 6 else f"{i:03}.png"
        files.append(folder / name)
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(files[-1])
    labels = shapes[1].copy()
    p = np.linspace(0.4, 1, 120)
    p[6] = 1  # so that it is shown
    labels[5], p[5] = -1, np.nan
    classes = np.array(["bars", EVIL, "</script><script>alert(3)</script>"])[shapes[1]]
    return page.Clustering(
        files,
        [str(file.relative_to(folder)) for file in files],
        labels,
        p,
        classes=classes.tolist(),
        invalid=[("005.png", EVIL)],
    )


def write(path, model, clustering, **options):
    facts = {"Settings": model.settings_, EVIL: {EVIL: EVIL}}
    page.write_page(path, model, clustering, title=f"pictures {EVIL}", facts=facts, **options)
    return path.read_text()


@pytest.fixture(scope="module")
def page_file(model, clustering, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write(path, model, clustering, command=f"skcc fit {EVIL}")
    return path


# -- without a browser ----------------------------------------------------------------------


class Elements(HTMLParser):
    """Elements, with their attributes, and the text of scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, text):
        if self.elements and self.elements[-1][0] == "script":
            self.scripts.append(text)


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)<', text)[1])


def test_the_page_loads_nothing_and_what_users_named_is_text(page_file):
    parsed = Elements(page_file.read_text())
    assert sum(tag == "script" for tag, _ in parsed.elements) == 2
    for tag, attributes in parsed.elements:
        assert not any(name.startswith("on") for name in attributes)
        assert "style" not in attributes
        for name in ("src", "href", "srcset", "action"):
            assert attributes.get(name, "#").startswith(("data:", "#")), (tag, attributes)
    names = {attributes["data-name"] for tag, attributes in parsed.elements
             if attributes.get("class") == "thumb"}  # fmt: skip
    assert HOSTILE in names


def test_only_the_style_and_the_script_of_the_page_are_allowed(page_file):
    text = page_file.read_text()
    policy = html.unescape(re.search(r'Security-Policy" content="(.*?)"', text)[1])
    assert policy.startswith("default-src 'none'; img-src data:; ")
    for element in ("style", "script"):
        (content,) = re.findall(f"<{element}>(.*?)</{element}>", text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"; {element}-src 'sha256-{digest}'; " in policy


def test_rows_hold_the_most_and_least_certain(page_file, clustering):
    rows, thumbs = (
        {},
        re.findall(r'data-name="(.*?)" data-cluster="(\d+)" data-p=', page_file.read_text()),
    )
    for name, cluster in thumbs:
        rows.setdefault(int(cluster), []).append(name.replace("&lt;", "<").replace("&gt;", ">"))
    assert set(rows) == {0, 1, 2}
    for cluster, shown in rows.items():
        members = [i for i in range(120) if clustering.labels[i] == cluster]
        members.sort(key=lambda i: -clustering.probabilities[i])
        expected = members[:12] + members[:-7:-1]
        assert shown == [clustering.names[i] for i in expected]


def test_the_map_shows_every_image_that_has_a_cluster(page_file, clustering):
    points = data_of(page_file.read_text())["points"]
    assert [p["name"] for p in points] == [n for n in clustering.names if n != "005.png"]
    assert [p["cluster"] for p in points] == [c for c in clustering.labels if c >= 0]
    assert all(0 <= p["x"] <= 1000 for p in points)
    assert all(p["image"].startswith("data:image/png;base64,") for p in points)


def test_neighbours_are_the_nearest_by_cosine(page_file, model, clustering):
    """Against sorting all pairs, one image after the other."""
    points = data_of(page_file.read_text())["points"]
    at = {name: i for i, name in enumerate(clustering.names)}
    features = model.transform(clustering.files).astype(float)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    for point in points[::17]:
        others = [p for p in points if p is not point]
        own = features[at[point["name"]]]
        by_hand = sorted((float(own @ features[at[p["name"]]]) for p in others), reverse=True)[:5]
        found = [float(own @ features[at[points[i]["name"]]]) for i in point["near"]]
        np.testing.assert_allclose(found, by_hand, atol=1e-6)
    strips = [e for e in Elements(page_file.read_text()).elements if "data-near" in e[1]]
    for _, attributes in strips[:5]:
        (own,) = [p for p in points if p["name"] == attributes["data-name"]]
        assert attributes["data-near"] == " ".join(map(str, own["near"]))


def test_all_names_are_there_for_the_search_unless_there_are_too_many(
    page_file, model, clustering, tmp_path, monkeypatch
):
    text = page_file.read_text()
    files = data_of(text)["files"]
    valid = clustering.valid
    assert files["names"] == [clustering.names[i] for i in valid]
    assert files["clusters"] == clustering.labels[valid].tolist()
    assert "search" in text
    assert all(f'<th scope="row">{name}' in text for name in model.readout_scores_)
    monkeypatch.setattr(page, "MAX_SEARCHED", 100)
    few = SimpleNamespace(**vars(clustering), valid=valid)
    assert page._files(few) is None


def test_curves_are_the_history(page_file, model):
    curves = data_of(page_file.read_text())["curves"]
    assert {c["name"]: c["values"] for c in curves} == {
        name: [float(f"{terms[name]:.4g}") for terms in model.history_]
        for name in model.history_[0]
    }


def test_long_histories_and_many_clusters_are_bounded():
    curves = page._curves([{"a": 1.0 / e} for e in range(1, 5001)])
    assert len(curves[0]["epochs"]) == page.MAX_CURVE_POINTS
    assert (curves[0]["epochs"][0], curves[0]["epochs"][-1]) == (1, 5000)
    for k in (1, 10, 75, 200, 3000):
        labels = np.arange(20 * k) % k
        clustering = page.Clustering([], [], labels, np.ones(20 * k))
        rows = page._select_for_rows(clustering, k)
        assert len(rows) == k
        assert all(len(typical) >= 1 for typical, _ in rows)
        assert sum(len(a) + len(b) for a, b in rows) <= max(page.MAX_IN_ROWS, k)
    sure = page.Clustering([], [], np.zeros(30, int), np.linspace(0, 1, 30))
    ((typical, uncertain),) = page._select_for_rows(sure, 1)
    assert (typical, uncertain) == (list(range(29, 17, -1)), list(range(6)))


def test_thumbnails_shrink_until_the_page_fits(tmp_path, monkeypatch):
    """Noise, which no format can compress."""
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{i}.png" for i in range(40)]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (200, 300, 3), dtype=np.uint8)).save(file)
    limit = 150_000
    monkeypatch.setattr(thumbnails, "MAX_TOTAL_CHARACTERS", limit)
    requests = [(range(40), 192), (range(0, 40, 2), 112)]
    parts, shape = thumbnails.encode_thumbnails(files, data.Format((40, 60, 3)), requests, n_jobs=2)
    assert shape == (192, 288)
    assert [len(part) for part in parts] == [40, 20]
    total = sum(len(uri) for part in parts for uri in part.values())
    assert limit / 3 < total <= limit


def test_a_file_that_is_gone_leaves_a_gap(clustering, tmp_path):
    files = [clustering.files[0], tmp_path / "gone.png"]
    gray = data.Format((16, 16, 1))
    (images,), shape = thumbnails.encode_thumbnails(files, gray, [([0, 1], 192)])
    assert images[0].startswith("data:image/png;base64,")
    assert images[1] is None
    assert shape == (16, 16)  # not larger than the file


def test_vectors_have_no_page(clustering, tmp_path):
    fitted_on_vectors = SimpleNamespace(image_shape_=None, settings_={})
    with pytest.raises(ValueError, match="the page shows images"):
        write(tmp_path / "page.html", fitted_on_vectors, clustering)
    assert not list(tmp_path.iterdir())


def test_without_classes_there_is_no_table():
    bare = page.Clustering([], [], np.array([0]), np.ones(1))
    assert set(bare.scores().values()) == {None}
    assert page._confusion(bare) is None


def test_large_tables_long_lists_lost_files_and_names_that_are_no_text(tmp_path):
    n = 70
    names = ["</script>\udcff\u2028'.png"] * n
    clustering = page.Clustering(
        [tmp_path / "gone.png"] * n,
        names,
        np.arange(n),
        np.ones(n),
        classes=[f"class {i}" for i in range(n)],
        invalid=[("a", "b")] * 250,
    )
    estimator = SimpleNamespace(
        n_clusters=n + 1,
        image_shape_=(16, 16, 1),
        _format=data.Format((16, 16, 1)),
        settings_={"size": (3, 4), "none": None},
        history_=[],
        transform=lambda files: np.random.default_rng(0).normal(size=(len(files), 4)),
    )
    text = write(tmp_path / "page.html", estimator, clustering)
    for expected in ("A table of 70 by 70 is too large to show.", "And 50 more.", "no longer there",
                     "70 images in 71 clusters, 1 of them empty", "<td>3 x 4</td>", "<td>None</td>",
                     'title="&lt;/script&gt;\ufffd\u2028&#39;.png"'):  # fmt: skip
        assert expected in text
    raw = re.search(r'<script type="application/json" id="data">(.*?)<', text)[1]
    assert raw.isascii()
    assert not set("<>&") & set(raw)
    assert {point["name"] for point in data_of(text)["points"]} == {"</script>\ufffd\u2028'.png"}
    assert text == write(tmp_path / "page.html", estimator, clustering)


def test_probabilities_are_never_rounded_to_certainty():
    assert [page._probability(p) for p in (1, 0.999, 0.994, 0.5)] == [
        "1.00",
        "0.99",
        "0.99",
        "0.50",
    ]


# -- in a browser ---------------------------------------------------------------------------


def _programs():
    browser = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    return browser, shutil.which("chromedriver")


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not here")
    program, driver = _programs()
    if not (program and driver):
        pytest.skip("Chromium or chromedriver is not here")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                     "--window-size=1280,900"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(driver, log_output=os.devnull)
    session = webdriver.Chrome(options=options, service=service)
    yield session
    session.quit()


@pytest.fixture
def opened(browser, page_file):
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(page_file.as_uri())
    yield browser
    assert browser.get_log("browser") == []  # neither errors nor warnings


def one(browser, selector):
    return browser.find_element("css selector", selector)


def every(browser, selector):
    return browser.find_elements("css selector", selector)


def shown(browser, selector):
    return browser.execute_script(
        "return getComputedStyle(document.querySelector(arguments[0])).visibility", selector
    ) == "visible"  # fmt: skip


def press(browser, *keys):
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


@pytest.mark.site
@pytest.mark.long
def test_it_shows_all_clusters(opened, clustering):
    titles = [e.text for e in opened.find_elements("css selector", ".cluster h3")]
    assert titles == ["Cluster 0", "Cluster 1", "Cluster 2", "Cluster 3"]
    rows = [e.text.split() for e in opened.find_elements("css selector", ".sizes tbody tr")]
    sizes = [int(np.sum(clustering.labels == j)) for j in range(4)]
    assert [(int(row[0]), int(row[1])) for row in rows] == list(enumerate(sizes))
    broken = "return [...document.images].filter(i => i.src && !i.naturalWidth).length"
    assert opened.execute_script(broken) == 0


@pytest.mark.site
@pytest.mark.long
def test_hostile_names_stay_text(opened):
    from selenium.common.exceptions import NoAlertPresentException

    with pytest.raises(NoAlertPresentException):
        _ = opened.switch_to.alert
    assert one(opened, "h1").text == f"pictures {EVIL}"
    assert opened.execute_script("return document.scripts.length") == 2
    thumb = opened.execute_script(
        "return [...document.querySelectorAll('.thumb')]"
        ".find(t => t.dataset.name === arguments[0])",
        HOSTILE,
    )
    opened.execute_script("arguments[0].click()", thumb)
    assert one(opened, "#viewer-name").text == HOSTILE
    names = [e.text for e in opened.find_elements("css selector", ".confusion tbody th")]
    assert sorted(names) == sorted(["bars", EVIL, "</script><script>alert(3)</script>"])


@pytest.mark.site
@pytest.mark.long
def test_no_request_is_made(opened, page_file):
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    urls = [
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    ]
    assert page_file.as_uri() in urls
    assert {url for url in urls if not url.startswith("data:")} == {page_file.as_uri()}


@pytest.mark.site
@pytest.mark.long
def test_not_even_from_a_server(browser, page_file):
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            asked.append(self.path)

    handler = functools.partial(Handler, directory=page_file.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.get(f"http://127.0.0.1:{server.server_port}/report.html")
        assert one(browser, "h1").text
        browser.get("about:blank")
        server.shutdown()
    assert asked == ["/report.html"]


@pytest.mark.site
@pytest.mark.long
def test_scripts_that_came_in_anyway_would_not_run(opened):
    """The policy of the page itself, beside escaping."""
    opened.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        "document.body.append(s); document.body.insertAdjacentHTML('beforeend',"
        '\'<img src="data:," onerror="window.ran = 1">\');'
    )
    opened.implicitly_wait(0.1)
    assert opened.execute_script("return window.ran") is None
    refusals = opened.get_log("browser")
    assert refusals
    assert all("Content Security Policy" in entry["message"] for entry in refusals)


@pytest.mark.site
@pytest.mark.long
def test_the_map_shows_the_image_below_the_pointer(opened, clustering):
    from selenium.webdriver import ActionChains

    assert not shown(opened, "#tip")
    points = opened.execute_script(
        "return JSON.parse(document.getElementById('data').textContent)"
    )["points"]
    dots = opened.find_elements("css selector", "#map g circle")
    by_place = {(p["x"], p["y"]): p for p in points}
    for dot in dots[::40]:
        point = by_place[int(dot.get_attribute("cx")), int(dot.get_attribute("cy"))]
        ActionChains(opened).move_to_element(dot).perform()
        assert shown(opened, "#tip")
        assert opened.execute_script("return document.querySelector('#tip img').naturalWidth") == 16
        text = opened.execute_script("return document.querySelector('#tip .name').textContent")
        assert text == point["name"]
        assert f"cluster {point['cluster']}" in one(opened, "#tip .what").text
    ActionChains(opened).move_to_element(one(opened, "h1")).perform()
    assert not shown(opened, "#tip")


@pytest.mark.site
@pytest.mark.long
def test_the_map_can_be_walked_by_keyboard(opened):
    from selenium.webdriver import Keys

    one(opened, "body").click()
    for _ in range(3):
        press(opened, Keys.TAB)
        if opened.execute_script("return document.activeElement.id") == "map":
            break
    assert opened.execute_script("return document.activeElement.id") == "map"
    assert shown(opened, "#tip")
    names = set()
    walk = ((Keys.ARROW_RIGHT, 4), (Keys.ARROW_DOWN, 4), (Keys.ARROW_LEFT, 8), (Keys.ARROW_UP, 8))
    for key in [key for key, times in walk for _ in range(times)]:
        press(opened, key)
        names.add(one(opened, "#announcement").get_attribute("textContent"))
    assert len(names) > 3
    assert all(re.search(r", cluster \d, probability [01]\.\d\d$", name) for name in names)
    press(opened, Keys.ENTER)
    assert opened.execute_script("return document.getElementById('viewer').open")
    press(opened, Keys.ESCAPE)
    assert not opened.execute_script("return document.getElementById('viewer').open")
    assert opened.execute_script("return document.activeElement.id") == "map"
    press(opened, Keys.ESCAPE)
    assert not shown(opened, "#tip")


@pytest.mark.site
@pytest.mark.long
def test_thumbnails_are_walked_and_enlarged_by_keyboard(opened):
    from selenium.webdriver import Keys

    opened.execute_script("document.querySelector('.thumb').focus()")
    active = "return document.activeElement.dataset.name"
    first = opened.execute_script(active)
    press(opened, Keys.ARROW_RIGHT)
    second = opened.execute_script(active)
    assert second != first
    press(opened, Keys.ENTER)
    assert one(opened, "#viewer-name").text == second
    press(opened, Keys.ESCAPE)
    assert opened.execute_script(active) == second
    press(opened, Keys.END, Keys.HOME)
    assert opened.execute_script(active) == first
    press(opened, Keys.TAB)  # a row is one stop
    strips = (
        "return [...document.querySelectorAll('.strip')].indexOf(document.activeElement.parentNode)"
    )
    assert opened.execute_script(strips) == 1


@pytest.mark.site
@pytest.mark.long
def test_images_are_found_by_name_and_lead_to_their_neighbours(opened, clustering):
    from selenium.webdriver import Keys

    field = one(opened, "#search")
    field.send_keys("01")
    found = [name for i, name in enumerate(clustering.names)
             if "01" in name and clustering.labels[i] >= 0]  # fmt: skip
    names = [e.text for e in every(opened, "#found button span")]
    assert names == [f"{n}, cluster {clustering.labels[clustering.names.index(n)]}" for n in found]
    assert one(opened, "#found p").text == f"{len(found)} found"
    press(opened, Keys.TAB, Keys.ENTER)
    assert one(opened, "#viewer-name").text == found[0]
    near = every(opened, ".near-images button")
    assert len(near) == 5
    title = near[2].get_attribute("title")
    near[2].click()
    assert title.startswith(one(opened, "#viewer-name").text + ",")
    press(opened, Keys.ESCAPE)
    field.clear()
    field.send_keys("<img src=x onerror=alert(1)>")
    assert one(opened, "#found p").text == "0 found"


_KEEP_FILES = """
window.kept = {}
const create = URL.createObjectURL
URL.createObjectURL = blob => {
    blob.text().then(text => window.kept[blob.type] = text)
    return create(blob)
}
HTMLAnchorElement.prototype.click = () => {}
"""


@pytest.mark.site
@pytest.mark.long
def test_names_and_labels_are_exported(opened, clustering, tmp_path):
    from selenium.webdriver.support.ui import WebDriverWait

    opened.execute_script(_KEEP_FILES)
    assert not one(opened, "#save-names").is_enabled()
    for field, name in zip(every(opened, ".rename")[:3], ("bars", 'a "b", c', "bars"), strict=True):
        opened.execute_script("arguments[0].scrollIntoView({behavior: 'instant'})", field)
        field.send_keys(name)
    every(opened, ".rename")[3].send_keys("=1+1")
    assert one(opened, "#named").text == "3 named, 2 names"
    for button in ("#save-names", "#save-labels"):
        opened.execute_script("arguments[0].click()", one(opened, button))
    both = "return Object.keys(window.kept).length == 2"
    WebDriverWait(opened, 5).until(lambda browser: browser.execute_script(both))
    kept = opened.execute_script("return window.kept")
    names = tmp_path / "names.json"
    names.write_text(kept["application/json"])
    given = outputs.read_names(names, 4)
    assert given == {0: "bars", 1: 'a "b", c', 2: "bars"}
    valid = clustering.valid
    table = outputs.labels_as_csv(
        [clustering.names[i] for i in valid], clustering.labels[valid],
        clustering.probabilities[valid], given,
    )  # fmt: skip
    assert kept["text/csv"].encode() == table


@pytest.mark.site
@pytest.mark.long
def test_curves_tell_single_epochs(opened, model):
    from selenium.webdriver import Keys

    opened.execute_script("document.querySelector('.curve .plot').focus()")
    press(opened, Keys.HOME, Keys.ARROW_RIGHT)
    name, values = next(iter(model.history_[0])), [next(iter(t.values())) for t in model.history_]
    assert one(opened, ".curve b").text == name
    assert one(opened, ".curve output").text == f"epoch 2: {float(f'{values[1]:.4g}')}"


@pytest.mark.site
@pytest.mark.long
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_it_fits_every_screen(opened, width):
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 700},
    )
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


CONTRAST = """
const seen = [];
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgb = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
const light = c => { const [r, g, b] = c.map(v => { v /= 255;
  return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
  return .2126 * r + .7152 * g + .0722 * b; };
for (const element of document.querySelectorAll('body *')) {
  if (![...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
  if (!element.checkVisibility()) continue;
  if (element.closest('script, svg, .visually-hidden, .skip, .close')) continue;
  let ground = element;
  while (rgb(getComputedStyle(ground).backgroundColor)[3] < 255) ground = ground.parentElement;
  const a = light(rgb(getComputedStyle(element).color));
  const b = light(rgb(getComputedStyle(ground).backgroundColor));
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  seen.push([ratio, element.className + ' ' + element.textContent]);
}
return seen;
"""


@pytest.mark.site
@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(opened, scheme):
    """WCAG 2, level AA: 4.5 to 1, computed from what the browser paints."""
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    seen = opened.execute_script(CONTRAST)
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len(seen) > 50
    assert min(seen)[0] >= 4.5, min(seen)
