"""Entries of its own for a test: registered, and gone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hydra.core.config_store import ConfigStore

from sdvar_exp import registry
from sdvar_exp.config import ConfigErrors, compose, schema
from sdvar_exp.config.composing import Composer, Tree

_kept: dict[tuple[str, ...], Tree | str] = {}


@pytest.fixture(autouse=True)
def _compositions_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Hydra composed from conf/ alone serves all tests of a worker."""
    compose_anew = Composer._compose

    def kept(self: Composer, choices: tuple[str, ...]) -> Tree | str:
        if self.extra is not None or self.searchpath:
            return compose_anew(self, choices)
        if choices not in _kept:
            _kept[choices] = compose_anew(self, choices)
        return _kept[choices]

    monkeypatch.setattr(Composer, "_compose", kept)


@pytest.fixture
def clean_registry() -> Iterator[None]:
    """Registry and ConfigStore as they were."""
    registry.discover()
    entries, store = dict(registry._entries), ConfigStore.instance()
    yield
    for kind, name in set(registry._entries) - set(entries):
        del registry._entries[kind, name]
        for group in (store.repo["schema"].get(kind, {}), store.repo.get(kind, {})):
            group.pop(f"{name}.yaml", None)
        for key in (f"schema/{kind}", kind):
            schema._stored.pop((key, name), None)


@pytest.fixture
def lines() -> Callable[..., list[str]]:
    """The error lines of a command that must be refused."""

    def run(*argv: str) -> list[str]:
        with pytest.raises(ConfigErrors) as caught:
            compose(argv)
        return str(caught.value).splitlines()

    return run
