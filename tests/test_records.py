"""Records on disk, the papers' figures, and tables of both."""

import csv
import io
import json
import re
import statistics
from pathlib import Path

import pytest
from sklearn.utils import Bunch

from skcc.experiments import records, sweeps
from skcc.experiments.classical import CLASSICAL
from skcc.methods import METHODS

SEED = Path(__file__).parents[2] / "shared" / "seeds"
HOME = Path(__file__).parents[1]


def record(row, seed, acc, **changes):
    return {
        "study": "table", "dataset": "cifar10", "row": row, "method": row, "n": 60_000,
        "clusters": 10 - seed,
        "parameters": {"n_clusters": 10, "random_state": seed}, "acc": acc, "nmi": acc - 0.1,
        "ari": acc - 0.2, "kmeans": None, "seconds": 60.0 + seed, "image_forwards": 1200,
        "device": "cpu", "threads": 2, **changes,
    }  # fmt: skip


# -- on disk --------------------------------------------------------------------------------


def test_what_is_added_is_read_again_in_order(tmp_path):
    for name, number in (("b", 1), ("a", 2), ("b", 3)):
        records.append(tmp_path / "new" / f"{name}.jsonl", {"number": number, "é": None})
    assert [r["number"] for r in records.read(tmp_path / "new")] == [2, 1, 3]
    assert records.read(tmp_path / "new" / "a.jsonl") == [{"number": 2, "é": None}]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_line_that_was_cut_off_harms_no_other(tmp_path, cut):
    path = tmp_path / "x.jsonl"
    for number in (1, 2):
        records.append(path, {"number": number})
    path.write_bytes(path.read_bytes()[:-cut])
    records.append(path, {"number": 3})
    whole = cut == 1  # the newline alone
    if whole:
        assert [r["number"] for r in records.read(path)] == [1, 2, 3]
        return
    with pytest.warns(UserWarning, match="line 2 was cut off"):
        assert [r["number"] for r in records.read(path)] == [1, 3]


def test_no_results_is_an_error(tmp_path):
    for path in (tmp_path, tmp_path / "x.jsonl", tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match="no results"):
            records.read(path)


# -- the papers' figures --------------------------------------------------------------------


def test_published_figures_are_complete():
    figures = records.published()
    table = [f for f in figures if f["study"] == "table"]
    names = {f["name"] for f in table}
    assert len(names) == 20  # 17 baselines, DeepCluster, Contrastive and Twin-Contrast Clustering
    of_cc = {f["dataset"]: (f["nmi"], f["acc"], f["ari"]) for f in table if f["name"] == "CC"}
    assert of_cc == {
        "cifar10": (0.705, 0.790, 0.637), "cifar100": (0.431, 0.429, 0.266),
        "stl10": (0.764, 0.850, 0.726), "imagenet10": (0.859, 0.893, 0.822),
        "imagenet-dogs": (0.445, 0.429, 0.274), "tiny-imagenet": (0.340, 0.140, 0.071),
    }  # fmt: skip
    rows = {*METHODS, *CLASSICAL}
    assert {row for f in table for row in f["rows"]} == rows
    assert {f["source"] for f in figures} <= set(records.SOURCES)
    assert {f["study"] for f in figures} == {*records.STUDIES} - {"peers"}
    keys = [(f["study"], f["dataset"], f["name"]) for f in figures]
    assert len(set(keys)) == len(keys)


@pytest.mark.data
def test_published_figures_are_those_of_the_seed():
    """Every number of the table that the project started from, read again and independently."""
    if not SEED.is_dir():
        pytest.skip("the seed documents are not here")
    text = next(t for t in (p.read_text() for p in SEED.iterdir()) if "K-means\t" in t)
    sets = ("cifar10", "cifar100", "stl10", "imagenet10", "imagenet-dogs", "tiny-imagenet")
    ours = {
        (f["name"], f["dataset"]): [f["nmi"], f["acc"], f["ari"]]
        for f in records.published()
        if f["study"] == "table" and f["name"] not in ("TCC", "DeepCluster")
    }  # fmt: skip
    seen = {}
    for line in re.sub(r"</?b>|\(Ours\)", "", text).splitlines():
        name, *cells = line.split("\t")
        if len(cells) != 18 or not re.search(r"\d\.\d", line):
            continue
        numbers = [None if c.strip() == "—" else float(c) for c in cells]
        for i, dataset in enumerate(sets):
            three = numbers[3 * i : 3 * i + 3]
            if three != [None] * 3:
                seen[name, dataset] = three
    assert len({name for name, _ in seen}) == 18
    assert ours == seen


# -- tables ---------------------------------------------------------------------------------


def test_means_and_deviations_over_seeds():
    accs = [0.7, 0.8, 0.75]
    (group,) = records.summarise(record("contrastive", i, a) for i, a in enumerate(accs))
    assert group["acc"] == pytest.approx((statistics.mean(accs), statistics.stdev(accs)))
    assert group["nmi"][0] == pytest.approx(0.65)
    assert (group["seeds"], group["clusters"], group["seconds"]) == (3, 8, 61.0)
    assert group["device"] == "cpu, 2 threads"


def test_a_seed_that_was_run_twice_counts_once_and_the_last_time():
    (group,) = records.summarise([record("twin", 0, 0.1), record("twin", 0, 0.9)])
    assert (group["seeds"], group["acc"]) == (1, (0.9, None))


def test_settings_are_without_what_decides_where_and_how_fast():
    place = {
        "device": "cuda",
        "n_jobs": 2,
        "verbose": 1,
        "checkpoint_dir": "x",
    }
    parameters = {"n_clusters": 10, "random_state": 0, "n_heads": 1, **place}
    (group,) = records.summarise([record("twin", 0, 0.5, parameters=parameters)])
    assert group["settings"] == "n_heads=1"


def test_other_settings_and_readouts_are_rows_of_their_own():
    long = {"parameters": {"n_clusters": 10, "random_state": 0, "max_epochs": 9}}
    both = {name: {"acc": acc, "nmi": 0.7, "ari": 0.6}
            for name, acc in (("auto", 0.9), ("kmeans", 0.8))}  # fmt: skip
    groups = records.summarise(
        [record("contrastive", 0, 0.5), record("contrastive", 0, 0.6, **long, **both)]
    )
    told = [(g["settings"], g["readout"], g["acc"][0]) for g in groups]
    assert told == [("", "", 0.5), ("max_epochs=9", "", 0.6),
                    ("max_epochs=9", "k-means of features", 0.8),
                    ("max_epochs=9", "nearest neighbours of features", 0.9)]  # fmt: skip
    assert len(records.summarise([record("twin", 0, 0.5), record("twin", 0, 0.5, n=100)])) == 2


def test_seconds_of_a_run_that_was_continued_count_only_if_there_are_no_others():
    whole, cut = record("twin", 0, 0.5), record("twin", 1, 0.5, seconds=2.0, continued=True)
    (group,) = records.summarise([whole, cut])
    assert group["seconds"] == 60.0
    (group,) = records.summarise([cut])
    assert group["seconds"] == 2.0


def test_lines_of_other_commands_are_rows_of_the_table_or_passed_over():
    run = record("twin", 0, 0.5) | {"method": "twin"}
    del run["study"], run["row"]
    (group,) = records.summarise([run, {"epoch": 1, "acc": 0.1}])
    assert (group["study"], group["row"]) == ("table", "twin")


def test_every_row_of_the_paper_is_there_and_says_what_it_is():
    runs = [record("kmeans", 0, 0.22), *(record("contrastive", s, 0.8) for s in range(2))]
    ((title, rows),) = records.tables(runs)
    assert title == "cifar10 (60,000 images)"
    by_name = {row["row"]: row for row in rows}
    assert len(rows) == 20
    assert by_name["CC (contrastive)"]["published ACC"] == ".790"
    assert by_name["CC (contrastive)"]["ACC"] == ".800 ± .000"
    assert by_name["K-means (kmeans)"]["ACC"] == ".220"
    assert {row["settings"] for row in rows} == {"", "not run"}
    assert by_name["IIC"]["published NMI"] == ""
    assert by_name["NMF"]["settings"] == "not run"


def test_a_data_set_of_ones_own_has_only_our_rows():
    own = record("contrastive", 0, 0.8) | {"dataset": "my photos"}
    nameless = own | dict.fromkeys(("acc", "nmi", "ari"))
    ((_, rows),) = records.tables([own])
    assert [row["row"] for row in rows] == ["CC (contrastive)"]
    ((_, rows),) = records.tables([nameless])
    assert rows[0]["ACC"] == ""


def test_rows_of_ablations_have_the_names_of_their_own_study():
    runs = [record("both", 0, 0.9, study=study, dataset="digits")
            for study in ("augmentation", "heads")]  # fmt: skip
    rows = [rows[0]["row"] for _, rows in records.tables(runs)]
    assert rows == ["T(x) + T'(x) (both)", "ICH + CCH (both)"]


def test_csv_can_be_read_again():
    text = records.render([record("kmeans", 0, 0.25)], "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 20
    assert rows[0]["row"] == "K-means (kmeans)"
    assert float(rows[0]["ACC"]) == 0.25
    assert float(rows[0]["published ACC"]) == 0.229


def test_text_is_aligned_and_markdown_has_as_many_cells_in_every_row():
    runs = [record("spectral", 0, 0.25), record("contrastive", 1, 0.5)]
    text = records.render(runs, "text").splitlines()
    column = text[2].index("published ACC")
    assert [line[column : column + 4] for line in text if line.startswith("CC (")] == [".790"]
    lines = [line for line in records.render(runs, "markdown").splitlines() if line[:1] == "|"]
    assert len({line.count("|") for line in lines}) == 1
    assert "self-tuning" in records.render(runs, "text")
    with pytest.raises(ValueError, match="text, markdown, csv; got 'html'"):
        records.render(runs, "html")


def test_the_page_of_results_is_what_the_command_makes():
    """Nothing in docs/results.md is typed."""
    made = records.render(records.read(HOME / "docs" / "results"), "markdown")
    assert (HOME / "docs" / "results.md").read_text() == made


def kept_records():
    return [r for r in records.read(HOME / "docs" / "results") if r["study"] != "peers"]


def test_identities_of_kept_records_are_recognised():
    """Otherwise a sweep would run again what is on record."""
    for kept in kept_records():
        bunch = Bunch(name=kept["dataset"], images=range(kept["n"]), target=None)
        given = kept["parameters"] | {"device": "cuda", "verbose": 1, "n_jobs": 2}
        ways = [given]
        if "calls" in kept:  # their number may have been given, or set by the budget
            ways.append({k: v for k, v in given.items() if k != "max_epochs"})
        of_what = kept["study"], kept["row"], kept["method"], bunch
        runs = [sweeps._Run(*of_what, p, minutes=kept.get("minutes")) for p in ways]
        assert kept["identity"] in [run.identity for run in runs]


def test_kept_records_name_their_commit_and_what_they_were_made_with():
    for path in sorted((HOME / "docs" / "results").glob("*.jsonl")):
        for line in path.read_text().splitlines():
            kept = json.loads(line)
            assert path.stem in (kept["dataset"], kept["study"])
            assert re.fullmatch(r"[0-9a-f]{12}", kept["commit"])
            assert kept["versions"]["torch"]
            assert {"acc", "nmi", "ari", "seconds", "device", "parameters"} <= set(kept)
            assert not any(str(value).startswith("/") for value in kept["parameters"].values())
