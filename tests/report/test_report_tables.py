"""Tables for papers: what is bold, what is escaped, and that LaTeX takes it."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sdvar_exp.report import summarise
from sdvar_exp.report.significance import comparisons, winners
from sdvar_exp.report.typeset import latex_escaped, latex_table, markdown_escaped, markdown_table, write_typeset

NASTY = r"a_b & 50 % of $x$ #1 {y} ~ ^ \cmd <tag> |p| `q` *r* [s] -- γ=2 τ≤½ → × é 鱼" + ' "t"'


@pytest.fixture(scope="module")
def summary(study):
    return summarise(study)


def named(study, summary, found) -> set[tuple[str, str]]:
    names = dict(zip(summary["cell"], summary["name"], strict=True))
    return {(metric, names[cell]) for metric, cell in winners(found)}


def test_the_best_is_bold_where_it_beats_every_other(study, summary):
    best = named(study, summary, comparisons(study, summary))
    assert ("speedup", "draft_only") in best  # 6.1 times, the next 2.3
    assert ("pixel_mae", "parallel_v1 γ=2 exact correct") in best
    assert ("target_calls", "draft_only") in best
    assert not any(name == "sequential" for _, name in best)


def test_equal_cells_share_and_close_cells_get_nothing(study):
    twin = study.samples[study.samples["name"] == "parallel_v1 γ=2 exact correct"]
    close = study.samples[study.samples["name"] == "draft_only"]
    noisy = close.assign(speedup=close["speedup"] * np.random.default_rng(0).lognormal(0, 0.05, len(close)))
    samples, runs = [study.samples], [study.runs]
    for cell, rows, like in (("twin", twin, "parallel_v1 γ=2 exact correct"), ("close", noisy, "draft_only")):
        samples.append(rows.assign(cell=cell, name=cell))
        runs.append(study.runs[study.runs["name"] == like].assign(cell=cell, name=cell))
    more = replace(study, samples=pd.concat(samples), runs=pd.concat(runs).assign(order=range(len(study.runs) + 2)))
    summary = summarise(more)
    summary["speedup"] = [more.samples.loc[more.samples["cell"] == c, "speedup"].mean() for c in summary["cell"]]
    best = named(more, summary, comparisons(more, summary))
    assert {("pixel_mae", "twin"), ("pixel_mae", "parallel_v1 γ=2 exact correct")} <= best
    assert not any(metric == "speedup" for metric, _ in best)


def test_holm_can_take_a_winner_away(study, summary):
    found = comparisons(study, summary)
    assert (found["p_holm"].dropna() >= found["p"].dropna()).all()
    two = new_p(found, 0.03)
    assert winners(two) == set()  # 0.03 once is significant, times the number of other cells it is not


def new_p(found: pd.DataFrame, p: float) -> pd.DataFrame:
    from sdvar_exp.metrics.permutation import holm

    out = found[found["metric"] == "speedup"].assign(p=p)
    return out.assign(p_holm=holm(out["p"].tolist()))


def test_markdown_has_intervals_and_n(study, summary):
    text = markdown_table(study, summary)
    lines = text.splitlines()
    assert len(lines) == 2 + 8 + 2
    assert {line.count("|") for line in lines[:10]} == {9}
    row = next(line for line in lines if line.startswith("| draft\\_only"))
    assert "| **6." in row and "**6" in row and "[" in row and "| 0/24 |" in row
    assert "n = 24 images a cell from 3 labels, 24 of them timed" in lines[-1]
    assert " ± " in markdown_table(study, summary, plus_minus=True)


def test_cells_of_different_sizes_show_their_n(study, summary):
    cut = study.samples[(study.samples["name"] != "draft_only") | (study.samples["seed"] < 4)]
    text = markdown_table(study, summarise(replace(study, samples=cut)))
    assert "| identical | n |" in text and "| 0/12 | 12 |" in text


def test_everything_is_escaped():
    tex = latex_escaped(NASTY)
    for raw, safe in ((r"\cmd", r"\textbackslash{}cmd"), ("&", r"\&"), ("%", r"\%"), ("#", r"\#"), ("鱼", "[U+9C7C]")):
        assert safe in tex
        assert raw not in tex.replace(safe, "")
    assert "--" not in tex  # no ligature
    assert markdown_escaped("a|b_c*") == r"a\|b\_c\*"
    assert latex_escaped("a\nb") == "a b"


def test_no_cells_give_no_files(study, summary, tmp_path):
    assert write_typeset(study, summary.iloc[:0], tmp_path) == []
    paths = write_typeset(study, summary, tmp_path)
    assert [p.name for p in paths] == ["results.tex", "results.md"]
    assert all(p.read_text() for p in paths)


@pytest.mark.long
@pytest.mark.needs("latex")
@pytest.mark.parametrize("plus_minus", [False, True])
def test_latex_compiles_it(study, summary, tmp_path: Path, plus_minus: bool) -> None:
    names = [NASTY, *summary["name"].iloc[1:]]
    body = latex_table(study, summary.assign(name=names), plus_minus)
    head = [r"\documentclass{article}", r"\usepackage{booktabs,graphicx}", r"\begin{document}"]
    (tmp_path / "paper.tex").write_text("\n".join([*head, body, r"\end{document}"]))
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000
