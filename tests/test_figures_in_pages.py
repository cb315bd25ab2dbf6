"""README and pages give the figures of the records in docs/results, and no others."""

import re
from pathlib import Path

import pytest

from skcc.experiments import records

HOME = Path(__file__).parents[1]
GROUPS = [g for g in records.summarise(records.read(HOME / "docs" / "results"))
          if g["study"] in ("table", "peers") and not g["readout"]]  # fmt: skip
TABLE = re.compile(r"^\| ACC / NMI \|(.+)\|\n\|[-|]+\|\n((?:\|.+\|\n)+)", flags=re.MULTILINE)


def figures(dataset, row, device="cpu"):
    """ACC / NMI of a row, of the default settings where those were run."""
    groups = [g for g in GROUPS if (g["dataset"], g["row"]) == (dataset, row)]
    groups = [g for g in groups if g["acc"][0] is not None]  # not one that was cut off
    groups = [g for g in groups if g["device"].startswith(device)]
    if not groups:
        return ""
    group = min(groups, key=lambda g: (len(g["settings"]), g["settings"]))
    return " / ".join(f"{group[score][0]:.3f}".removeprefix("0") for score in ("acc", "nmi"))


def tables(page):
    """Cells of the tables of figures in a page, with the data set and row that each is of."""
    for header, body in TABLE.findall((HOME / page).read_text()):
        datasets = [cell.split(",")[0].strip() for cell in header.split("|")]
        for line in body.splitlines():
            name, *cells = [cell.strip().strip("*") for cell in line.strip("|").split("|")]
            *_, row = re.findall(r"`([\w+-]+)`", name)  # the last name is that of the row
            yield from ((dataset, row, cell) for dataset, cell in zip(datasets, cells, strict=True))


PAGES = ["README.md", "docs/index.md", "docs/comparison.md", "docs/contrastive-clustering.md"]


@pytest.mark.parametrize("page", PAGES)
def test_the_figures_of_a_page_are_those_of_the_records(page):
    found = list(tables(page))
    assert {row for _, row, _ in found} >= {"contrastive", "kmeans"}
    assert any(cell for *_, cell in found)
    for dataset, row, cell in found:
        assert cell.strip("*") == figures(dataset, row), f"{row} on {dataset}"


def test_the_readme_is_short_and_gives_the_figures_of_photos():
    text = (HOME / "README.md").read_text()
    assert len(text.splitlines()) <= 110
    on_cpu, on_gpu = (figures("cifar10", "contrastive", device) for device in ("cpu", "cuda"))
    sentence = f"from scratch give {on_cpu}, and 150 epochs in six minutes of an H200 {on_gpu};"
    assert sentence in " ".join(text.split())
