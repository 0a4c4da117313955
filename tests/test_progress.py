"""Progress: a bar in a terminal, whole lines seconds apart in files and pipes, nothing where nothing is asked for."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import numpyro_flowprior as fp
from numpyro_flowprior._util import progress as _progress
from numpyro_flowprior._util.progress import Lines, progress_bar


@pytest.fixture
def clock(monkeypatch):
    """A time that only tests move; before it, nothing was written."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now.seconds)
    monkeypatch.setattr(Lines, "_written", 0.0)
    return now


def test_a_long_work_is_told_of_at_its_start_every_ten_seconds_and_at_its_end(clock, capsys):
    with progress_bar(desc="walking", unit="step", total=420) as bar:
        for step in range(420):
            clock.seconds += 0.1
            bar.update()
            bar.set_postfix(tau=step)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "walking: 0 of 420 steps"
    assert lines[1].startswith("walking: 100 of 420 steps, 10 s, about 32 s left")
    assert lines[-1] == "walking: 420 of 420 steps, 42 s, tau=419"
    assert len(lines) == 6


def test_many_short_works_are_told_of_seconds_apart(clock, capsys):
    for member in range(50):
        with progress_bar(desc=f"member {member}", unit="step", total=10) as bar:
            for _ in range(10):
                clock.seconds += 0.1
                bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["member 0: 0 of 10 steps", "member 0: 10 of 10 steps, 1 s"]
    assert 5 <= len(lines) <= 2 + 2 * 50 / 10


def test_items_are_handed_on(clock, capsys):
    assert list(progress_bar(range(3), desc="d", unit="item", total=3)) == [0, 1, 2]
    assert capsys.readouterr().err.splitlines()[-1] == "d: 3 of 3 items, 0 s"
    assert list(progress_bar(range(3), desc="d", unit="item", disable=True)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "text"), [(3.4, "3 s"), (75, "1 min 15 s"), (7300, "2 h 1 min")])
def test_times_are_spelled(seconds, text):
    assert _progress._spelled(seconds) == text


def test_terminals_and_notebooks_have_a_bar(monkeypatch):
    assert isinstance(progress_bar(desc="d", unit="step", disable=False), Lines)
    for shell, looked_at in ((SimpleNamespace(kernel=1), True), (SimpleNamespace(), False), (None, False)):
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))
        assert _progress.is_looked_at() == looked_at
    monkeypatch.setattr(_progress.sys, "stderr", SimpleNamespace(isatty=lambda: True))
    assert _progress.is_looked_at()


def test_a_fit_writes_few_whole_lines_into_a_pipe(capsys, monkeypatch):
    monkeypatch.setattr(Lines, "_written", -np.inf)
    chain = fp.Chain(np.random.default_rng(0).normal(size=(500, 1)), fp.ParameterSpace(["x"]))
    config = fp.FlowConfig(layers=1, hidden=(4,), members=4)
    fp.fit_flow(jax.random.key(0), chain, config, fp.TrainConfig(max_steps=50, eval_every=10))
    text = capsys.readouterr().err
    assert "\r" not in text
    assert 1 <= len(text.splitlines()) < 10
