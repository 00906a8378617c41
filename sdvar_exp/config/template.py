"""The yaml that belongs to a registered entry, for whoever adds one."""

from __future__ import annotations

import dataclasses
from typing import Any

from sdvar_exp import registry
from sdvar_exp.registry import plain


def parameters(kind: str, name: str) -> dict[str, Any]:
    """Parameters of an entry and their defaults as plain data; `???` for one without a default."""
    out: dict[str, Any] = {}
    for f in dataclasses.fields(registry.get(kind, name).params):
        if f.default is not dataclasses.MISSING:
            out[f.name] = plain(f.default)
        elif f.default_factory is not dataclasses.MISSING:
            out[f.name] = plain(f.default_factory())
        else:
            out[f.name] = "???"
    return out


def parameter_lines(kind: str, name: str) -> list[str]:
    """Explains the parameters: the docstring of their class, unless it is the one that dataclasses make."""
    params = registry.get(kind, name).params
    doc = (params.__doc__ or "").strip()
    if not dataclasses.fields(params) or doc.startswith(f"{params.__name__}("):
        return []
    return [line.strip() for line in doc.splitlines() if line.strip()]


def entry_yaml(kind: str, name: str) -> str:
    """Text of `conf/<kind>/<name>.yaml`."""
    lines = [f"# {registry.get(kind, name).doc}", *(f"# {line}" for line in parameter_lines(kind, name))]
    lines += ["defaults:", f"  - /schema/{kind}/{name}@_here_", "  - _self_"]
    values = parameters(kind, name)
    if values:
        lines += ["", *(f"{key}: {_scalar(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_scalar(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_scalar(v)}" for key, v in value.items()) + "}"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if value in ("on", "off", "yes", "no", "y", "n", ""):
        return f'"{value}"'
    return str(value)
