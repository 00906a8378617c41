"""Defines each quantity once: what it is, how it is computed, averaged, named and shown.

A metric is one function under `@register("metric", name, …)`, in a file of this folder or in a user's package. The names of
its parameters say what it needs:

- evidence of a decode (`EVIDENCE`): then it is computed with the row and stored in `samples`. `_a` is the cell's image, `_b`
  the one it is compared with.
- columns of `samples`: then the report derives it from what is stored. It is given whole columns, as floats.

Tables, page, paper tables, figures, W&B, `power`, `diff`, `objective` and docs/metrics.md read their metrics here, so a new
one appears in all of them. No pandas and no SciPy here: the store reads its columns from this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from inspect import signature
from typing import Any

from sdvar_exp import registry
from sdvar_exp.errors import UserError

EVIDENCE = {
    "image_a": "image (3, H, W) in [0, 1], float64",
    "image_b": "the baseline's image",
    "f_hat_a": "last feature map (c, h, w)",
    "f_hat_b": "the baseline's",
    "tokens_a": "tokens of all stages (L,), int64",
    "tokens_b": "the baseline's",
    "close_b": "(L,) bool: within rounding of being another token in the baseline's decode; false in float64",
    "features_a": "activations (64,) of the shipped classifier, for the embedded pair",
    "features_b": "the same of the baseline's image",
    "predicted_a": "class that the classifier sees",
    "predicted_b": "the same of the baseline's image",
    "label": "class that was asked for",
    "pyramid": "`Pyramid` of the model",
}
"""Names of parameters that are evidence of a decode, and what each is."""

AVERAGES = ("mean", "geometric", "pooled", "count", "none")
SHOWN = ("everywhere", "wide", "summary", "image", "rows")
HEADLINES = ("difference", "speed", "calls")
ORDER = ("recorded", "fidelity")
REFERENCE_ROWS = "rows_reference"
"""Column with the rows that the reference feeds; the report fills it where it is the cell's own `target_rows_alone`."""
OF_SETS = ("class_accuracy", "fd_real", "fd_baseline")
"""Quantities of a cell's images as a set that a plan can be optimised for: columns of `quality`, of the features kept."""
OWN = "_own"
"""Ending of a column that compares with the cell's own baseline, where that is not the study's reference."""


@dataclass(frozen=True)
class Metric:
    """A quantity, as its entry declares it.

    Args:
        name: column of tables.
        function: computes it from what its parameters name.
        heading: words for tables and axes; a soft hyphen marks where a long word may break.
        formula: Markdown, for docs/metrics.md.
        unit: unit and range in words, where null.
        range: least and greatest value; intervals are cut to it.
        better: -1 smaller is better, 1 larger, 0 neither.
        digits: decimals.
        average: over the units of a cell: `mean`; `geometric` (ratios); `pooled`: the function of the columns' sums; `count`
            of true values; `none`.
        shown: `everywhere`; `wide`: the summary, and the terminal's table where there is room; `summary`; `image`: beside an
            image of the page; `rows`: in `samples`, `diff` and W&B alone.
        interval: whether tables show the interval beside the mean.
        headline: `difference`, `speed` or `calls` for the one metric that stands for it.
        figures: whether figures that compare cells have a panel for it.
        values: `float`, `int` or `bool`.
        against_own: always asked of the own baseline, under the plain name: what a decoder promises is said of that.
        timed: a time, or a ratio of times; the summary takes it from `timings`.
        says: one sentence, the first line of the docstring.
        own: of the project itself, not of a user's package.
    """

    name: str
    function: Callable[..., Any]
    heading: str
    formula: str
    unit: str = ""
    range: tuple[float, float] = (-math.inf, math.inf)
    better: int = 0
    digits: int = 3
    average: str = "mean"
    shown: str = "everywhere"
    interval: bool = True
    headline: str = ""
    figures: bool = True
    values: str = "float"
    against_own: bool = False
    timed: bool = False
    says: str = ""
    own: bool = False
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        choices = {"average": AVERAGES, "shown": SHOWN, "values": ("float", "int", "bool"), "better": (-1, 0, 1)}
        for key, allowed in choices.items():
            if (value := getattr(self, key)) not in allowed:
                raise UserError(f"metric={self.name}: {key} must be one of {', '.join(map(str, allowed))}, got {value!r}")

    @property
    def plain_heading(self) -> str:
        return self.heading.replace("\u00ad", "")

    @property
    def measured(self) -> bool:
        """Whether it is computed with the row; else the report derives it from columns of `samples`."""
        return set(self.needs) <= set(EVIDENCE)

    @property
    def compares(self) -> bool:
        """Whether it compares an image with another decode."""
        return self.measured and any(name.endswith("_b") for name in self.needs)

    @property
    def twice(self) -> bool:
        """Whether it stands a second time against the own baseline, where that is not the reference."""
        return self.compares and not self.against_own and any(not name.endswith("_b") for name in self.needs)

    @property
    def of_images(self) -> bool:
        """Whether it compares two images and needs nothing else, so that it has a value between any two."""
        return self.needs == ("image_a", "image_b")

    @property
    def has_floor(self) -> bool:
        """Whether another seed is measured in it: two baseline images of one label that differ in the seed alone."""
        return self.of_images and self.tabled

    @property
    def tabled(self) -> bool:
        return self.shown == "everywhere"

    @property
    def drawn(self) -> bool:
        return self.tabled and self.figures

    @property
    def summarised(self) -> bool:
        """Whether the summary has a column for it."""
        return self.average in ("mean", "geometric", "pooled") and self.shown in ("everywhere", "wide", "summary")

    @property
    def ratio(self) -> bool:
        """Whether it is a ratio, whose differences are those of logarithms."""
        return self.average == "geometric"

    @property
    def relative(self) -> bool:
        """Whether it depends on what a cell is compared with: a difference, or a ratio to the reference."""
        return self.twice or self.ratio or REFERENCE_ROWS in self.needs

    def against_baseline(self) -> Metric:
        """The same quantity against the cell's own baseline: `pixel_mae_own`, "pixel difference (own baseline)"."""
        return replace(self, name=self.name + OWN, heading=f"{self.heading} (own baseline)", headline="", figures=False)

    def lines(self) -> tuple[str, str]:
        """The heading on two lines, the first one empty where it is short."""
        first, space, rest = self.plain_heading.partition(" ")
        if space:
            return first, rest
        first, soft, rest = self.heading.partition("\u00ad")
        return (f"{first.rstrip('-')}-", rest) if soft else ("", first)

    def clipped(self, value: float | None) -> float | None:
        """A bound of its interval, within its range."""
        return None if value is None else float(min(max(value, self.range[0]), self.range[1]))


_built: dict[Callable[..., Any], Metric] = {}


def metrics() -> tuple[Metric, ...]:
    """All metrics: those that are recorded, those of fidelity, then those of users by name.

    Raises `UserError` for an entry that does not say what a metric must say.
    """
    found = [_metric(registry.get("metric", name)) for name in registry.names("metric")]
    return tuple(sorted(found, key=_place))


def own() -> tuple[Metric, ...]:
    """The project's own metrics; no plugin is loaded for it, so that the store may ask."""
    return tuple(sorted(map(_metric, registry.own("metric")), key=_place))


def _metric(entry: registry.Entry) -> Metric:
    if entry.function not in _built:
        known = {f.name for f in fields(Metric)} - {"name", "function", "says", "own", "needs"}
        wrong, missing = entry.meta.keys() - known, {"heading", "formula"} - entry.meta.keys()
        if wrong or missing:
            said = f"does not know {', '.join(sorted(wrong))}" if wrong else f"must say {', '.join(sorted(missing))}"
            raise UserError(f"metric={entry.name} {said}; it may say {', '.join(sorted(known))}")
        own = entry.function.__module__.startswith("sdvar_exp.")
        needs = tuple(signature(entry.function).parameters)
        _built[entry.function] = Metric(entry.name, entry.function, **entry.meta, says=entry.doc, own=own, needs=needs)
    return _built[entry.function]


def _place(metric: Metric) -> tuple[Any, ...]:
    file = metric.function.__module__.rpartition(".")[2]
    if not metric.own:
        return 2, 0, metric.name, 0
    return (0, ORDER.index(file), "", metric.function.__code__.co_firstlineno) if file in ORDER else (1, 0, metric.name, 0)


def metric(name: str) -> Metric:
    """One metric; `UserError` naming them all for an unknown one."""
    return _metric(registry.get("metric", name))


def headline(role: str) -> Metric:
    """The metric that stands for `difference` (of images), `speed` or `calls`."""
    return next(m for m in metrics() if m.headline == role)


def tabled() -> tuple[Metric, ...]:
    """Metrics of every table, with direction, mean and interval."""
    return tuple(m for m in metrics() if m.tabled)


def objectives() -> tuple[str, ...]:
    """Columns of the summary that a plan can be optimised for."""
    return tuple(m.name for m in metrics() if m.summarised)


def measure(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Every metric whose evidence is there, by name: float, int, bool, or None where it has no value.

    Raises `UserError` naming the metric where one of a user's fails or gives something else than a number.
    """
    out: dict[str, Any] = {}
    for m in metrics():
        if m.measured and all(name in evidence for name in m.needs):
            given = {name: evidence[name] for name in m.needs}
            out[m.name] = m.function(**given) if m.own else _checked(m, given)
    return out


def _checked(m: Metric, given: Mapping[str, Any]) -> float | int | bool | None:
    try:
        value = m.function(**given)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        number: float | int | bool = {"float": float, "int": int, "bool": bool}[m.values](value)
        return number
    except Exception as error:
        raise UserError(f"metric={m.name} failed: {type(error).__name__}: {error}") from error
