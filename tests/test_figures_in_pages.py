"""README and pages give the figures of the records in docs/results, and no others."""

import re
from pathlib import Path

import pytest
from scipy.stats import spearmanr

from skcc.experiments import records

HOME = Path(__file__).parents[1]
GROUPS = [g for g in records.summarise(records.read(HOME / "docs" / "results"))
          if g["study"] in ("table", "peers")]  # fmt: skip
# A row whose name says one of these has the scores of that read-out, others those of the run.
READOUTS = {
    "own head": "head",
    "nearest centre": "head",
    "k-means of the features": "kmeans",
    "by neighbours": "auto",
}
# Pages with tables of figures, and methods that they tell of.
PAGES = {
    "README.md": {"contrastive"},
    "docs/index.md": {"contrastive"},
    "docs/comparison.md": {"contrastive"},
    "docs/contrastive-clustering.md": {"contrastive"},
    "docs/twin-contrast.md": {"twin"},
    "docs/information.md": {"iic", "pica"},
    "docs/association.md": {"adc"},
    "docs/pairwise.md": {"dac", "dccm", "ddc"},
    "docs/alternating.md": {"deepcluster", "jule"},
    "docs/autoencoders.md": {"autoencoder", "denoising", "variational"},
    "docs/deconvolutional.md": {"deconvolutional"},
    "docs/dcgan.md": {"dcgan"},
    "docs/dec.md": {"dec"},
}
TABLE = re.compile(r"^\| ACC / NMI \|(.+)\|\n\|[-|]+\|\n((?:\|.+\|\n)+)", flags=re.MULTILINE)


def figures(dataset, row, device="cpu", readout=""):
    """ACC / NMI of a row, of the default settings where those were run."""
    groups = [g for g in GROUPS
              if (g["dataset"], g["row"]) == (dataset, row)
              and (readout_of_group(g) == readout if readout else not g["readout"])]  # fmt: skip
    groups = [g for g in groups if g["acc"][0] is not None]  # not one that was cut off
    groups = [g for g in groups if g["device"].startswith(device)]
    if not groups:
        return ""
    group = min(groups, key=lambda g: (len(g["settings"]), g["settings"]))
    return " / ".join(f"{group[score][0]:.3f}".removeprefix("0") for score in ("acc", "nmi"))


def readout_of_group(group):
    """The read-out of a group's scores: that of its run, or another of the same features."""
    names = {name: key for key, name in records.OTHER_READOUTS.items()}
    set_to = re.search(r"\breadout=(\w+)", group["settings"])
    return names[group["readout"]] if group["readout"] else set_to[1] if set_to else "auto"


def tables(page):
    """Cells of the tables of figures in a page, with the data set, row and read-out of each."""
    for header, body in TABLE.findall((HOME / page).read_text()):
        datasets = [cell.split(",")[0].strip() for cell in header.split("|")]
        for line in body.splitlines():
            name, *cells = [cell.strip().strip("*") for cell in line.strip("|").split("|")]
            *_, row = re.findall(r"`([\w+-]+)`", name)  # the last name is that of the row
            readout = readout_of(name)
            for dataset, cell in zip(datasets, cells, strict=True):
                yield dataset, row, readout, cell


def readout_of(name):
    """The read-out that the name of a row speaks of."""
    keys = [key for phrase, key in READOUTS.items() if phrase in name]
    return keys[0] if keys else ""


@pytest.mark.parametrize("page", PAGES)
def test_the_figures_of_a_page_are_those_of_the_records(page):
    found = list(tables(page))
    assert {row for _, row, *_ in found} >= PAGES[page] | {"kmeans"}
    assert any(cell for *_, cell in found)
    for dataset, row, readout, cell in found:
        expected = figures(dataset, row, readout=readout)
        assert cell.strip("*") == expected, f"{row} on {dataset}, {readout}"


def test_the_readme_is_short_and_gives_the_figures_of_photos():
    text = (HOME / "README.md").read_text()
    assert len(text.splitlines()) <= 110
    on_cpu, on_gpu = (figures("cifar10", "contrastive", device) for device in ("cpu", "cuda"))
    sentence = f"from scratch give {on_cpu}, and 150 epochs in six minutes of an H200 {on_gpu};"
    assert sentence in " ".join(text.split())


def test_which_method_gives_the_agreement_of_ranks_on_photos():
    printed = {row: f["acc"] for f in records.published() for row in f["rows"]
               if (f["study"], f["dataset"]) == ("table", "cifar10")}  # fmt: skip
    ours = {g["row"]: g["acc"][0] for g in GROUPS
            if g["dataset"] == "cifar10" and g["device"].startswith("cpu")
            and not g["readout"] and g["row"] in printed}  # fmt: skip
    agreement = spearmanr([ours[row] for row in ours], [printed[row] for row in ours]).statistic
    text = " ".join((HOME / "docs" / "which-method.md").read_text().split())
    found = f"(rank correlation {agreement:.2f}".replace("0.", ".")
    assert f"The ranks of {len(ours)} rows by the default read-out" in text
    assert found in text
