"""The report of a comparison: its numbers are those of the folders, and the folders alone make it again."""

import csv
import json
import math
import re
import statistics
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from scipy import stats

from odenets.errors import UserError
from odenets.report import flow_figures, terminal
from odenets.report import page as pages
from odenets.report.comparison import write_report
from odenets.report.runs import read
from odenets.report.svg import Styles, panel
from odenets.report.verdict import Column, cells, columns, differ, number, steps_to, target_of


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Axes]:
    """The axes of every figure of the flows, by name, once it is drawn."""
    found: dict[str, Axes] = {}

    def keep(name: str, title: str, caption: str, paint, height: float = 3.1) -> None:  # type: ignore[no-untyped-def]
        figure = panel()
        paint(figure.subplots())
        found[name] = figure.axes[0]

    monkeypatch.setattr(flow_figures, "draw", keep)
    return found


def column(folder: Path, key: str) -> Column:
    return next(c for c in columns(read(folder)) if c.key == key)


def test_the_csv_has_the_numbers_of_the_folders(compared: Path):
    write_report(compared)
    with open(compared / "report.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 9
    for line in lines:
        run = compared / "runs" / f"{line['configuration'].replace(' ', '-')}-seed-{line['seed']}"
        if line["status"] == "failed":
            assert line["cause"] == json.loads((run / "failure.json").read_text())["cause"]
            assert line["test_accuracy"] == ""
            continue
        result, costs = (json.loads((run / f"{name}.json").read_text()) for name in ("result", "costs"))
        assert math.isclose(float(line["test_accuracy"]), 100 * result["measures"]["test_accuracy"])
        assert float(line["test_loss"]) == result["measures"]["test_loss"]
        assert math.isclose(float(line["forward_ms"]), 1e3 * costs["forward_seconds"])
        assert math.isclose(float(line["peak_mb"]), 1e-6 * costs["peak_bytes"])
        for key in ("parameters", "spikes", "seconds"):
            assert float(line[key]) == result[key]
        assert (float(line["nfe"]), float(line["gradient_error"])) == (costs["nfe"], costs["gradient_error"])
    assert sum(line["status"] == "failed" for line in lines) == 1


def test_page_markdown_and_terminal_show_mean_and_spread_over_seeds(
    compared: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "80")
    page = write_report(compared).read_text()
    printed = capsys.readouterr().out
    values = [
        json.loads((compared / "runs" / f"delta-euler-seed-{seed}" / "result.json").read_text())["measures"]
        for seed in range(3)
    ]
    accuracy = [100 * v["test_accuracy"] for v in values]
    text = f"{statistics.fmean(accuracy):.2f} ± {statistics.stdev(accuracy):.2f}"
    assert text == "97.50 ± 0.50"
    for where in (page, (compared / "report.md").read_text(), printed):
        assert text in where
        assert "91.10 ± 0.14" in where  # residual: two of its three seeds
    assert max(map(len, printed.splitlines())) <= 80 or "report  " in printed
    table = [line for line in printed.splitlines() if "report  " not in line and "failed:" not in line]
    assert max(map(len, table)) <= 80


def test_the_page_is_the_same_bytes_when_made_again(compared: Path, tmp_path: Path):
    first = write_report(compared).read_bytes()
    for name in ("report.html", "report.md", "report.csv"):
        (compared / name).unlink()
    assert write_report(str(compared)).read_bytes() == first


def test_the_page_is_whole_by_itself_and_escapes_what_it_quotes(compared: Path):
    page = write_report(compared).read_text()
    outside = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert "http://" not in outside
    assert "https://" not in outside
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)", outside)
    assert "<script" not in page
    assert "the loss &lt;became&gt; nan" in page
    assert "<became>" not in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)) <= {(i, "") for i in ids} | {("", i) for i in ids}
    assert "residual also stands for block=residual scheme=exponential" in page
    assert "delta euler was given branch.hidden=27" in page
    assert "1 of 3 failed" in page


def test_best_and_tied_follow_the_seeds(compared: Path):
    comparison = read(compared)
    marks = [cell.mark for cell in cells(comparison, column(compared, "test_accuracy"))]
    assert marks == ["", "tied", "best"]
    assert [cell.mark for cell in cells(comparison, column(compared, "nfe"))] == ["", "", ""]  # all equal: none is best
    assert [c.mark for c in cells(comparison, column(compared, "parameters"))] == ["best", "", ""]


def test_rows_that_read_the_same_are_not_ranked(compared: Path):
    for path in compared.glob("runs/*/result.json"):  # seeds without effect: no spread, and the eighth digit differs
        result = json.loads(path.read_text())
        result["measures"]["test_accuracy"] = 0.9 + 1e-8 * (path.parent.name.startswith("residual"))
        path.write_text(json.dumps(result))
    assert {cell.mark for cell in cells(read(compared), column(compared, "test_accuracy"))} == {"best"}
    assert pages.summary(read(compared)) == "All configurations reach the same test accuracy."


def test_a_row_with_one_result_is_not_called_behind(compared: Path):
    (compared / "runs" / "residual-seed-1" / "result.json").unlink()
    assert "Not tested, for want of a second result: residual." in pages.summary(read(compared))
    assert "Behind" not in pages.summary(read(compared))


def test_a_run_that_never_measured_the_loss_leaves_no_common_level(compared: Path):
    path = compared / "runs" / "residual-seed-0" / "metrics.csv"
    path.write_text("epoch,step,test_loss\n1,10,nan\n")
    assert target_of(read(compared)) is None
    write_report(compared)


def test_commands_can_be_pasted_into_a_shell(compared: Path):
    path = compared / "comparison.json"
    path.write_text(path.read_text().replace("experiment=digits", "model.N=range(1,3)"))
    text = write_report(compared).with_suffix(".md").read_text()
    assert "odenets compare 'model.N=range(1,3)'" in text


def test_differ_is_welchs_test():
    pairs = [([1.0, 1.1, 0.9], [1.3, 1.35, 1.2, 1.4]), ([1.0, 2.0], [2.0, 3.5]), ([1.0, 1.001, 1.0], [1.0, 1.001, 1.1])]
    for one, other in pairs:
        assert differ(one, other) == (stats.ttest_ind(one, other, equal_var=False).pvalue < 0.05)
    assert differ([3.0, 3.0], [4.0, 4.0])
    assert not differ([3.0, 3.0], [3.0, 3.0])


def test_steps_to_target_wait_for_a_level_that_all_reached(compared: Path):
    comparison = read(compared)
    assert target_of(comparison) == ("test_loss", 0.31)  # the worst of the runs' best
    run = comparison.rows[1].runs[0]
    assert steps_to(run, "test_loss", 0.31) == 40
    assert steps_to(run, "test_loss", 0.5) == 30
    assert steps_to(run, "test_accuracy", 0.8) == 30
    assert steps_to(run, "test_loss", 0.01) is None


@pytest.mark.parametrize(
    ("value", "spread", "text"),
    [(74730, 0, "74,730"), (97.5, 0.5, "97.50"), (0.1234567, 0.02, "0.123"), (2.5e-7, 1e-8, "2.5e-07"),
     (42.04, 0, "42.04"), (27.1, 19.8, "27"), (1234.5, 0, "1,234")],
)  # fmt: skip
def test_digits(value: float, spread: float, text: str):
    assert number(value, spread) == text


def test_a_folder_without_a_comparison_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"no comparison\.json"):
        write_report(tmp_path)


def test_a_comparison_without_any_result_still_has_a_page(compared: Path):
    for path in compared.glob("runs/*/result.json"):
        path.unlink()
    page = write_report(compared).read_text()
    assert "No run has a result yet" in page
    assert "8 missing" not in page
    assert page.count("not run yet") >= 8
    assert terminal.verdict_table(read(compared)).row_count == 3


def test_diagnostics_and_trajectories_are_drawn_from_the_folders(diagnosed: Path):
    page = write_report(diagnosed).read_text()
    names = re.findall(r'data-figure="([^"]+)"', page)
    for name in (
        "stability-forward-euler", "stability-exponential", "steps-quality", "steps-distance", "gain-signal",
        "gain-gradient", "gain-total-row", "gain-total-column", "phase", "time-0", "time-1",
    ):  # fmt: skip
        assert names.count(name) == 1
    assert "0.125 (trained at 0.25)" in page
    assert page.count("accuracy falls") == 3


def test_numbers_that_are_not_finite_are_left_out_and_far_eigenvalues_counted(diagnosed: Path):
    path = diagnosed / "runs" / "residual-seed-0" / "diagnostics.json"
    content = json.loads(path.read_text())
    found = content["results"]
    found["eigenvalues"][0]["z"] = [[["nan", "inf"], [-1e6, 0.0], [-0.5, 0.25]]]
    found["gains"] = {"signal": [1.0, "inf", "nan"], "gradient": ["nan", "nan", "nan"]}
    found["step_study"]["rows"][1]["measures"]["test_accuracy"] = "nan"
    path.write_text(json.dumps(content))
    portrait = diagnosed / "runs" / "residual-seed-0" / "portrait.json"
    portrait.write_text(portrait.read_text().replace("[2.0, 3.0]", "[null, 3.0]"))
    page = write_report(diagnosed).read_text()
    assert "1 of 6 lie beyond" in page
    assert "nan" not in re.findall(r"<text[^>]*>([^<]*)</text>", page)


def test_an_adaptive_solvers_steps_are_drawn_by_their_factor(diagnosed: Path, drawn: dict[str, Axes]):
    for path in diagnosed.glob("runs/*/diagnostics.json"):
        content = json.loads(path.read_text())
        study = content["results"]["step_study"] | {"trained_h": None, "critical_step": None}
        for row, name in zip(study["rows"], ("as trained", "h / 2", "2 h", "h / 4")):
            row |= {"h": None, "name": name}
        content["results"]["step_study"] = study
        path.write_text(json.dumps(content))
    comparison = read(diagnosed)
    flow_figures.step_halving(comparison, Styles([row.choice for row in comparison.rows]))
    assert list(zip(*drawn["steps-distance"].lines[0].get_data())) == [(0.5, 0.3), (1.0, 0.0), (2.0, 0.6)]


def test_points_lie_where_the_eigenvalues_are(diagnosed: Path, drawn: dict[str, Axes]):
    comparison = read(diagnosed)
    styles = Styles([row.choice for row in comparison.rows])
    flow_figures.stability(comparison, styles)
    axes = drawn["stability-forward-euler"]
    residual, _, delta, _ = axes.lines[1:]  # two layers each, after the imaginary axis
    assert sorted(set(zip(*residual.get_data()))) == [(-0.5, 1.5), (0.25, -1.5)]  # of the whole field
    assert set(zip(*delta.get_data())) == {(-0.5, 0.0)}  # of the frozen linear part
    (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert low <= -2 <= 0 <= high
    assert bottom <= -1.5 <= 1.5 <= top
    flow_figures.step_halving(comparison, styles)
    line = drawn["steps-distance"].lines[0]
    assert list(zip(*line.get_data())) == [(0.5, 0.3), (1.0, 0.0), (2.0, 0.6)]  # the failed step is left out
