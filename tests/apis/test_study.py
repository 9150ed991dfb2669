"""Tests of studies: their file, the comparison of cells seed by seed, and the tables."""

import csv
import json
import math

import pytest
from scipy import stats

from ssm_core.errors import ConfigError
from ssm_train.apis.study import Cell, StudySettings, as_markdown, compare, paired, read_study
from ssm_train.apis.sweep import Outcome, folder_name, read_costs, row

STUDY = """
seeds: [3, 1]
tables:
  levels:
    config: a/quad.py
    cells:
      base: {}
      one: {model.backbone.quadtree_levels: 1}
      narrow: {model.backbone.dims: [8, 16], model.backbone.window_shift: false}
  families:
    cells:
      tree: {config: b/tree.py}
      quad: {config: a/quad.py}
"""
FAMILIES = STUDY.partition("  families:\n")[2].rstrip()


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(STUDY)
    return path


def test_a_study_has_the_runs_of_all_cells_seed_after_seed_and_each_once(study):
    settings = StudySettings(str(study))
    assert str(settings.folder) == "work_dirs/study_small"
    assert [(run.config, run.folder) for run in settings.runs()] == [
        (config, f"{stem},{changes}seed={seed}")
        for seed in (3, 1)
        for config, stem, changes in (
            ("a/quad.py", "quad", ""),
            ("a/quad.py", "quad", "quadtree_levels=1,"),
            ("a/quad.py", "quad", "dims=8-16,window_shift=False,"),
            ("b/tree.py", "tree", ""),
        )
    ]
    narrow = settings.runs()[2]
    assert settings.options_of(narrow.settings) == [
        "model.backbone.dims=[8, 16]", "model.backbone.window_shift=False", "randomness.seed=3"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seeds: [3, 1]", "seeds: [3, 3]", "seeds has to be a list of different whole numbers"),
        ("seeds: [3, 1]", "", "has to have the two keys seeds and tables, and has tables"),
        ("    config: a/quad.py\n", "", "neither the cell 'base' nor its table 'levels' names a config"),
        ("    config: a/quad.py\n", "    confg: a/quad.py\n", "the table 'levels' has the key 'confg'"),
        ("    cells:\n      base", "    cell:\n      base", "the table 'levels' has the key 'cell'"),
        ("      base: {}", "      base: 3", "the cell 'base' has KEY: VALUE"),
        ("      base: {}", "      base: {seed: 3}", "the cell 'base' sets a seed"),
        ("seeds: [3, 1]", "seeds: [3, 1", "cannot be read as YAML: .* in line"),
        ("seeds: [3, 1]", "seeds: " + 3000 * "[", "it is nested too deeply"),
        ("seeds: [3, 1]", "seeds: [3, 1]\nseeds: [4]", "'seeds' is there twice"),
        ("      one: {", "      base: {", "'base' is there twice"),
        ("      base: {}", "      1: {}\n      1.0: {}", "'1' and '1.0' are the same"),
        ("      base: {}", "      yes: {}\n      true: {}", "'yes' and 'true' are the same"),
        ("      base: {}", "      base: {x: 2020-13-45}", "cannot be read as YAML: ValueError: month must be in"),
        ("      base: {}", "      base: {x: !!bool abc}", "cannot be read as YAML: KeyError: 'abc'"),
        ("seeds: [3, 1]", "seeds: [0, 4294967296]", "whole numbers from 0 to 4294967295, not"),
        ("levels: 1}", "levels: 1, model.backbone.quadtree_levels: 2}", "'model.backbone.quadtree_levels' is there"),
        ("      base: {}", "      3: {}\n      '3': {}", "two cells of the table 'levels' are called '3'"),
        ("  families:", "  ' levels': {config: a/quad, cells: {}}\n  families:", "two tables are called 'levels'"),
        (
            "    cells:\n      tree: {config: b/tree.py}\n      quad: {config: a/quad.py}",
            "    cells: {}",
            "has no cells",
        ),
    ],
)
def test_a_faulty_study_says_where(study, old, new, words):
    assert old in STUDY
    study.write_text(STUDY.replace(old, new, 1))
    with pytest.raises(ConfigError, match=words):
        read_study(study)


def test_keys_with_one_end_have_runs_of_their_own(study):
    study.write_text(STUDY.replace("quadtree_levels: 1}", "depth: 1}\n      two: {model.head.depth: 1}"))
    folders = [run.folder for run in StudySettings(str(study)).runs()]
    assert {"quad,backbone.depth=1,seed=3", "quad,head.depth=1,seed=3"} <= set(folders)
    assert len(folders) == 10


@pytest.mark.parametrize(("old", "new"), [("b/tree.py", "b/quad.py"), ("levels: 1}", "dims: 8-16}")])
def test_two_cells_never_share_a_folder_by_chance(study, old, new):
    text = STUDY.replace(old, new).replace(", model.backbone.window_shift: false", "")
    study.write_text(text.replace("quadtree_dims", "dims"))
    with pytest.raises(ConfigError, match="cannot share the folder"):
        StudySettings(str(study)).runs()


def test_folders_have_names_that_files_can_have(tmp_path):
    names = [folder_name({"options": str(list(range(100))), "seed": seed}) for seed in ("0", "1")]
    assert names[0] != names[1]
    for name in names:
        (tmp_path / f"{'c' * 60},{name}").mkdir()


def test_a_name_with_a_bar_is_one_cell_of_a_table():
    assert row(["a|b", "c"]) == r"| a\|b | c |"


def test_a_paired_comparison_gives_the_figures_of_the_literature():
    """Student's own data on sleep (1908). The figures are those in the manual of R's ``t.test(..., paired = TRUE)``."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = paired([*first, None, 1.0], [*second, 2.0, None])
    assert found.pairs == 10
    assert (found.difference, found.low, found.high) == pytest.approx((1.58, 0.7001142, 2.4598858), abs=1e-7)
    assert found.p == pytest.approx(0.002833, abs=1e-6)
    assert paired([1.0, None], [None, 2.0]) is None
    assert paired([1.0, 2.0], [1.0, 2.0]).p == 1


def outcome(folder, value, seconds=60.0, status="done", error=""):
    return Outcome({}, folder, status, 1_500_000, value, value, 8, seconds, error, 40.0, 512)


@pytest.mark.parametrize("other", [[91.0, 92.0, 93.0], [90.1, 91.1, 92.1]])
def test_equal_differences_have_no_p(other):
    """A t-test of values without spread says 0, which is no evidence. Such a comparison is left out of the others'."""
    cells = [Cell("t", name, "c.py", {}) for name in ("base", "same", "far")]
    base, far = [90.0, 91.0, 92.0], [92.0, 93.5, 94.0]
    outcomes = [[outcome(str(v), v) for v in own] for own in (base, other, far)]
    found = compare(cells, outcomes)
    assert found[1].difference == pytest.approx(other[0] - 90)
    assert all(math.isnan(value) for value in (found[1].low, found[1].high, found[1].p, found[1].adjusted_p))
    assert found[2].adjusted_p == found[2].p == pytest.approx(stats.ttest_rel(far, base).pvalue)
    assert f"| {other[0] - 90:+.3g} | – | – | – |" in as_markdown("t", cells, outcomes, found, "top1")


def test_the_tables_of_a_study():
    cells = [Cell("levels", "base", "quad.py", {}), Cell("levels", "one", "quad.py", {"levels": "1"})]
    cells += [Cell("other", "alone", "quad.py", {})]
    base = [outcome("a", 90.0), outcome("b", 91.0), outcome("c", 92.5)]
    one = [outcome("d", 89.0, 30.0), outcome("e", 90.2), outcome("f", None, 0.0, "failed", "no GPU is left")]
    compared = compare(cells, [base, one, base])
    assert [comparison is None for comparison in compared] == [True, False, True]
    assert (compared[1].pairs, compared[1].difference) == (2, pytest.approx(-0.9))
    assert compared[1].adjusted_p == compared[1].p, "it is the only comparison of its table"
    table = as_markdown("small", cells, [base, one, base], compared, "top1")
    assert "| base | 3 | 91.17 ± 1.3 |  |  |  |  | 1.500 M | 40.0 | 1 min 00 s | 512 |" in table
    assert "| one | 2 of 3 | 89.6 ± 0.85 | -0.9 | -2.17 … +0.371 | 0.07 | 0.07 |" in table
    assert table.count("no GPU is left") == 1
    assert table.index("## levels") < table.index("## other")


def test_a_table_for_spreadsheets_names_the_cells_of_each_run(study):
    settings = StudySettings(str(study))
    outcomes = [Outcome(run.settings, run.folder) for run in settings.runs()]
    rows = list(csv.DictReader(settings.tables(outcomes, "top1")["table.csv"].splitlines()))
    assert [row["folder"] for row in rows] == [outcome.folder for outcome in outcomes]
    named = [cell for row in rows for cell in row["cells"].split("; ")]
    assert sorted(named) == sorted(f"{cell.table}: {cell.name}" for cell in settings.study.cells for _ in range(2))
    assert any("; " in row["cells"] for row in rows), "two tables share a run"


def test_many_comparisons_make_each_weaker():
    """By Benjamini and Hochberg the smallest of two p is doubled, unless the other one is less than that."""
    cells = [Cell("t", name, "c.py", {}) for name in ("base", "far", "near")]
    values = ([1.0, 2.0, 3.0], [2.0, 3.1, 4.0], [1.5, 1.9, 3.2])
    found = compare(cells, [[outcome(str(v), v) for v in own] for own in values])
    assert found[1].adjusted_p == pytest.approx(2 * found[1].p)
    assert found[2].adjusted_p == pytest.approx(found[2].p)


def test_time_and_memory_are_those_of_the_log(tmp_path):
    for number, lines in enumerate(([(0.5, 700), (0.1, 55)], [(0.2, 60), (0.3, 58)])):
        folder = tmp_path / str(number) / "vis_data"
        folder.mkdir(parents=True)
        text = "".join(f"{json.dumps({'train/time': time, 'memory': memory})}\n" for time, memory in lines)
        (folder / "scalars.json").write_text(text + '{"val/top1": 3.0}\n{"train/ti')
    found = Outcome({}, "")
    read_costs(found, tmp_path)
    assert (found.milliseconds, found.memory) == (pytest.approx(250), 700)


def test_a_config_beside_the_file_of_the_study_is_meant_first(study):
    assert read_study(study).cells[0].config == "a/quad.py"
    own = study.parent / "a" / "quad.py"
    own.parent.mkdir()
    own.write_text("")
    assert {cell.config for cell in read_study(study).cells} == {str(own), "b/tree.py"}
