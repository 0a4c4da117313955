"""Set-up of the whole test run."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path

import pytest

_COMPILED = "/jax/core/compile/backend_compile_duration"
_MOST_MAPPED = 25_000  # after a module; the largest adds some ten thousand


def pytest_configure(config) -> None:
    """Lets the workers share what they compile, and keep it for the next run (`make clean` removes it).

    The tests compile far more than they compute. JAX finds a program by the hash of its code, options and versions.
    """
    if not config.pluginmanager.hasplugin("cacheprovider"):
        return
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir("jax")))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def pytest_collectstart() -> None:
    """Imports NumPyro before ArviZ 1.x, whose lazy import of it leaves `numpyro.distributions.distribution` unset.

    And without a word: its oldest version uses names that JAX gives up.
    """
    with warnings.catch_warnings(action="ignore"):
        import numpyro  # noqa: F401


@pytest.fixture(autouse=True)
def _float32_again():
    """Fails the test that leaves float64 enabled, itself or by an import, instead of those that follow it."""
    import jax

    yield
    left = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", False)
    assert not left, "jax_enable_x64 was left enabled"


@pytest.fixture
def compiled():
    """Returns a function: how many programs JAX has made, or taken from its cache, since it was called last."""
    import jax

    made = []

    def listen(name, *_, **__):
        if name == _COMPILED:
            made.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)

    def count():
        n = len(made)
        made.clear()
        return n

    return count


def pytest_runtest_teardown(item, nextitem) -> None:
    """Lets compiled programs go when there are many: a process may map 65,530 pieces of memory, each takes several."""
    if (nextitem is None or item.path != nextitem.path) and _mapped() > _MOST_MAPPED:
        import jax  # not above: it reads the variables set there when it is imported

        jax.clear_caches()


def _mapped() -> float:
    try:
        return Path("/proc/self/maps").read_text().count("\n")
    except OSError:  # not Linux
        return math.inf
