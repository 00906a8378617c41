"""`sdvar-exp worst`: the images of a study that come out worst by a metric, and where their pictures lie."""

from __future__ import annotations

from typing import Any

from sdvar_exp.cli.options import Parser, say_json
from sdvar_exp.cli.studies import cells, one_cell, study_of, study_parser
from sdvar_exp.errors import UserError, require


def parser() -> Parser:
    known = study_parser("worst", "The images that come out worst by a metric, the worst first, and where their pictures lie.")
    known.add_argument("--metric", default=None, metavar="COLUMN", help="default: the pixel difference", source=_metrics)
    known.add_argument("--cell", metavar="CELL", help="of this cell alone: id, name, pattern or key=value", source=cells)
    known.add_argument("-n", type=int, default=10, metavar="IMAGES", help="how many (default 10)")
    return known


def _metrics(asked: Any) -> list[str]:
    from sdvar_exp.metrics.quantities import metrics

    return [m.name for m in metrics() if m.better]


def main(argv: list[str]) -> int:
    asked = parser().parse_args(argv)
    folder = study_of(asked)
    from sdvar_exp.metrics.quantities import headline, metric
    from sdvar_exp.store.images import image_name
    from sdvar_exp.store.results import load_results

    require(asked.n >= 1, f"-n must be ≥ 1, got {asked.n}")
    m = metric(asked.metric) if asked.metric else headline("difference")
    if not m.better:
        raise UserError(f"{m.name} is neither better nor worse as it grows; metrics that are: {', '.join(_metrics(None))}")
    frame = load_results(folder)
    if asked.cell:
        frame = frame[frame["cell"] == one_cell(asked.cell, folder)]
    frame = frame[frame[m.name].notna()] if m.name in frame else frame.iloc[:0]
    if frame.empty:
        raise UserError(f"{folder} has no image with a {m.name} yet")
    worst = frame.sort_values(m.name, ascending=m.better > 0, kind="stable").head(asked.n)
    rows = []
    for row in worst.to_dict("records"):
        path = folder / "images" / row["cell"] / image_name(row["label"], row["seed"])
        picture = str(path) if path.is_file() else None
        rows.append({**{k: row[k] for k in ("cell", "name", "label", "seed")}, m.name: float(row[m.name]), "picture": picture})
    if asked.json:
        say_json(rows)
        return 0
    for row in rows:
        image = f"{row['name']}, label {row['label']}, seed {row['seed']}"
        print(f"{row[m.name]:<10.4g} {image}  {row['picture'] or 'no picture kept'}")
    return 0
