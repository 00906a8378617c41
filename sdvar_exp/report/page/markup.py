"""Markup of the page from its templates: Jinja2, with every value escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

ASSETS = Path(__file__).parent


@cache
def environment() -> Environment:
    """Templates beside this file; JSON is compact, sorted, and cannot end the script element it stands in."""
    made = Environment(
        loader=FileSystemLoader(ASSETS), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.policies["json.dumps_kwargs"] = {
        "ensure_ascii": False,
        "separators": (",", ":"),
        "sort_keys": True,
        "allow_nan": False,
    }
    return made


def part(name: str, **values: Any) -> Markup:
    """A macro of parts.html."""
    return Markup(getattr(environment().get_template("parts.html").module, name)(**values))
