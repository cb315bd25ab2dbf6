"""The site is built without a warning, has no broken links, and is readable in a browser."""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

HOME = Path(__file__).parents[1]
# The text of the package for an index is no page of the site.
PAGES = sorted(path for path in (HOME / "docs").glob("*.md") if path.stem != "description")
MADE = ("_build", "api", "gallery")  # below docs, by an earlier build
NEEDED = ("myst_parser", "numpydoc", "pydata_sphinx_theme", "sphinx", "sphinx_copybutton")
NEEDED += ("sphinx_design", "sphinx_gallery")


class _Page(HTMLParser):
    """Anchors of a page, what it links to, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loaded = set(), [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs[name] for name in ("id", "name") if attrs.get(name)}
        if tag == "a" and "href" in attrs:
            self.links.append(attrs["href"])
        elif tag == "link" and attrs.get("rel") not in ("canonical", "search", "next", "prev"):
            self.loaded.append(attrs["href"])
        elif tag in ("script", "img", "iframe", "source") and attrs.get("src"):
            self.loaded.append(attrs["src"])


def broken(folder):
    """Broken links of a site, and what it would load from elsewhere."""
    pages = {path.resolve(): _Page(path) for path in Path(folder).rglob("*.html")
             if "_static" not in path.parts}  # fmt: skip
    for path, page in pages.items():
        for link in page.links + page.loaded:
            if urlsplit(link).scheme or link.startswith("//"):
                if link in page.loaded and not link.startswith("data:"):
                    yield f"{path.name} loads {link}"
                continue
            target, anchor = urldefrag(link)
            file = (path.parent / unquote(urlsplit(target).path)).resolve() if target else path
            if not file.is_file():
                yield f"{path.name} -> {link}: no such file"
            elif anchor and file in pages and unquote(anchor) not in pages[file].anchors:
                yield f"{path.name} -> {link}: no such anchor"


def test_broken_links_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="#here"></a><a href="#there"></a><a href="b.html#x"></a>'
        '<a href="c.html"></a><a href="https://x.org/"></a><img src="https://x.org/i.png">'
    )
    (tmp_path / "b.html").write_text('<h1 id="x">B</h1><a href="a.html#here"></a>')
    assert sorted(broken(tmp_path)) == [
        "a.html -> #there: no such anchor",
        "a.html -> c.html: no such file",
        "a.html loads https://x.org/i.png",
    ]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as `make docs-fast` builds it, from a copy of the sources."""
    for package in NEEDED:
        pytest.importorskip(package, reason=f"{package} is not here")
    home = tmp_path_factory.mktemp("site")
    shutil.copytree(HOME / "docs", home / "docs", ignore=shutil.ignore_patterns(*MADE))
    shutil.copytree(HOME / "examples", home / "examples")
    shutil.copy(HOME / "README.md", home)
    path = os.pathsep.join(filter(None, [str(HOME), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "GALLERY": "0", "MPLBACKEND": "Agg", "PYTHONPATH": path}
    environment.pop("INTERSPHINX", None)
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", "html"],
        cwd=home, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return home / "html"


@pytest.mark.site
def test_the_site_is_built_without_a_warning_and_all_links_lead_somewhere(site):
    assert list(broken(site)) == []
    built = {path.stem for path in site.glob("*.html")}
    assert {path.stem for path in PAGES} <= built
    formulas = (site / "contrastive-clustering.html").read_text()
    assert formulas.count("<math") >= 12
    assert "$$" not in formulas
    api = (site / "api" / "skcc.ContrastiveClustering.html").read_text()
    assert all(f"skcc.ContrastiveClustering.{name}" in api for name in ("fit", "predict", "save"))


def _slug(heading):
    """The anchor that a code-hosting site gives to a heading."""
    words = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return words.replace(" ", "-")


@pytest.mark.parametrize("page", [HOME / "README.md", *PAGES], ids=lambda path: path.name)
def test_relative_links_of_the_sources_lead_somewhere(page):
    """So pages can be read where the repository is shown, too."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if urlsplit(link).scheme:
            continue
        target, anchor = urldefrag(link)
        file = page.parent / target if target else page
        assert file.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), flags=re.MULTILINE)
            assert anchor in map(_slug, headings), link


@pytest.mark.parametrize("page", [HOME / "README.md", *PAGES], ids=lambda path: path.name)
def test_code_fits_beside_the_sidebars(page):
    """At 1280 pixels lines of 100 characters do; `test_pages_are_readable` looks at some."""
    if page.name != "log.md":
        blocks = re.findall(r"^```.*?^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        assert [line for block in blocks for line in block.splitlines() if len(line) > 100] == []


@pytest.mark.parametrize(
    "picture",
    [path for kind in ("svg", "png") for path in (HOME / "docs").rglob(f"*.{kind}")
     if path.relative_to(HOME / "docs").parts[0] not in MADE],
    ids=lambda path: path.name,
)  # fmt: skip
def test_pictures_are_small(picture):
    assert picture.stat().st_size < 150_000


# -- in a browser ---------------------------------------------------------------------------

LOOKED_AT = ("index", "getting-started", "contrastive-clustering", "twin-contrast", "losses")
LOOKED_AT += ("choosing", "faq", "comparison", "results", "api", "add-a-method", "gallery/index")
LOOKED_AT += ("api/skcc.ContrastiveClustering", "api/skcc.losses.nt_xent")


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_): ...


@pytest.fixture(scope="module")
def address(site):
    handler = functools.partial(_Silent, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not here")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    if not (program and driver):
        pytest.skip("Chromium or chromedriver is not here")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    session = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(driver, log_output=os.devnull)
    )
    yield session
    session.quit()


def complaints(browser):
    """Errors and warnings in the console; the theme also tells there what it does."""
    return [line for line in browser.get_log("browser") if line["level"] not in ("INFO", "DEBUG")]


_SQUEEZED = """
return [...document.querySelectorAll('article math, article img')]
    .filter(e => { const box = e.getBoundingClientRect(); return box.width < 4 || box.height < 4 })
    .map(e => e.outerHTML.slice(0, 200))
"""
_SCROLLING_CODE = """
return [...document.querySelectorAll('.bd-article pre')]
    .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.slice(0, 80))
"""
_TOO_WIDE = """
const width = document.documentElement.clientWidth
return document.documentElement.scrollWidth <= width ? [] :
    [...document.querySelectorAll('body *')]
    .filter(e => e.getBoundingClientRect().right > width + 1)
    .map(e => e.outerHTML.slice(0, 100)).slice(0, 5)
"""


@pytest.mark.site
@pytest.mark.long
@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_pages_are_readable(browser, address, width, colours):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": colours}]},
    )
    browser.get("about:blank")
    browser.get_log("browser")
    for page in LOOKED_AT:
        browser.get(f"{address}/{page}.html")
        assert browser.execute_script(_TOO_WIDE) == [], page
        assert browser.execute_script(_SQUEEZED) == [], page
        if width > 1000:
            assert browser.execute_script(_SCROLLING_CODE) == [], page
        theme = browser.execute_script("return document.documentElement.dataset.theme")
        assert theme == colours, page
        assert complaints(browser) == [], page


# The clipboard itself is not to be had without a window; what is put there is.
_KEEP_COPIES = """
document.addEventListener('copy', () => {
    const field = document.activeElement
    window.copied = field.value ? field.value : String(getSelection())
})
"""


@pytest.mark.site
@pytest.mark.long
def test_code_is_copied(browser, address):
    from selenium.webdriver import ActionChains

    browser.get(f"{address}/getting-started.html")
    blocks = browser.find_elements("css selector", "div.highlight")
    buttons = browser.find_elements("css selector", "div.highlight button.copybtn")
    assert len(blocks) == len(buttons) >= 5
    python = next(b for b in blocks if "labels_" in b.text)
    code = python.find_element("css selector", "pre").text
    button = python.find_element("css selector", "button.copybtn")
    browser.execute_script(_KEEP_COPIES)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", python)
    ActionChains(browser).move_to_element(python).pause(0.2).click(button).perform()
    copied = browser.execute_script("return window.copied")
    assert copied.strip() == code.strip()
    assert complaints(browser) == []
