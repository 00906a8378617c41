"""Entries of its own for a test: registered, and gone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hydra.core.config_store import ConfigStore

from sdvar_exp import registry
from sdvar_exp.config import ConfigErrors, compose, schema


@pytest.fixture
def clean_registry() -> Iterator[None]:
    """Registry and ConfigStore as they were."""
    registry.discover()
    entries, store = dict(registry._entries), ConfigStore.instance()
    yield
    for kind, name in set(registry._entries) - set(entries):
        del registry._entries[kind, name]
        for group in (store.repo.get("schema", {}).get(kind, {}), store.repo.get(kind, {})):
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
