"""scan_flows: finds the best, goes on after a kill, gives the same table wherever it runs, refuses bad grids."""

from __future__ import annotations

import csv
import gc
import json
import os
import pickle
import signal
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing import get_context

import jax
import numpy as np
import optax
import pytest
from toys import correlated_chain

from numpyro_flowprior import (
    PAPER_GRID,
    Chain,
    FileFormatError,
    FlowConfig,
    FlowPrior,
    ParameterSpace,
    TrainConfig,
    fit_flow,
    scan_flows,
    write_chain,
)
from numpyro_flowprior.cli import main
from numpyro_flowprior.diagnostics.quality import held_out_log_densities
from numpyro_flowprior.training import problem, rungs, scan
from numpyro_flowprior.training.grid import expand
from numpyro_flowprior.training.pool import process_pool
from numpyro_flowprior.training.prepare import Prepared, prepare
from numpyro_flowprior.training.problem import Problem, held_apart, pose, posed_by
from numpyro_flowprior.training.steps import learning_rate

KEY = jax.random.key(0)
SMALL = FlowConfig(hidden=(16,), base="normal")
GRID = {"layers": [1, 2], "batch_size": [100], "learning_rate": [1e-2, 1e-5], "loss": ["nll"]}
SIX = {**GRID, "layers": [1, 2, 3]}  # of which four go on


def banana(n: int = 3000) -> Chain:
    """x ~ N(0, 1), y | x ~ N(x^2, 0.5), with its exact log density."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n, 2))
    log_p = -0.5 * np.sum(z**2 + np.log(2 * np.pi), axis=1) - np.log(0.5)
    return Chain(np.column_stack([z[:, 0], z[:, 0] ** 2 + 0.5 * z[:, 1]]), ParameterSpace(["x", "y"]), log_prob=log_p)


def run(grid=GRID, chain=None, config=SMALL, train=None, **options):
    options = {"rows": (2000, 20_000), "progress": False, **options}
    return scan_flows(KEY, banana() if chain is None else chain, grid, config, train, **options)


def untimed(result):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in result.table]


def assert_same_tables(first, second, atol=0.0):
    for one, other in zip(untimed(first), untimed(second), strict=True):
        for name in ("log_density", "error"):
            assert one.pop(name) == pytest.approx(other.pop(name), abs=atol)
        assert one == other


@pytest.fixture
def counted(monkeypatch):
    """Counts trainings, in this process."""
    trained = []
    real = rungs._held_log_density
    monkeypatch.setattr(rungs, "_held_log_density", lambda task, rate: trained.append((task, rate)) or real(task, rate))
    return trained


@pytest.fixture(scope="module")
def halved():
    return run({**SIX, "loss": ["nll", "kl", "jeffreys"]})


def test_the_best_learns_a_banana_and_the_table_says_why(halved):
    """The Gaussian of the same moments is 0.9 nats worse; a learning rate of 1e-5 stays near it in 200 steps."""
    table = halved.table
    assert len(table) == len(halved.candidates) == 18
    assert halved.best.train.learning_rate == 1e-2
    assert halved.best == halved.candidates[table[0]["candidate"]]
    for row in table:
        config, train = halved.candidates[row["candidate"]]
        named = (config.layers, train.batch_size, train.learning_rate, train.loss)
        assert named == (row["layers"], row["batch_size"], row["learning_rate"], row["loss"])
        assert (row["status"], row["rows"], row["steps"]) == {
            1: ("stopped", 2000, 20),
            2: ("finished", 20_000, 200),
        }[row["rung"]]
    entropy = -banana(20_000).log_prob.mean()
    assert -entropy - 0.3 < table[0]["log_density"] < -entropy + 0.1
    assert 0.01 < table[0]["error"] < 0.1  # 450 rows held out, each a nat or so from the mean
    slow = [row for row in table if row["learning_rate"] == 1e-5]
    assert max(row["log_density"] for row in slow) < table[0]["log_density"] - 0.4
    assert table[-1]["rung"] == 1
    lines = str(halved).splitlines()
    assert len(lines) == 12  # head, ten rows, count
    assert "18 candidates: " in lines[-1]


def test_likelihood_and_kl_are_one_training(halved):
    def by_loss(loss):
        rows = {(row["layers"], row["learning_rate"]): row for row in halved.table if row["loss"] == loss}
        return {at: (row["log_density"], row["status"], row["seconds"]) for at, row in rows.items()}

    assert by_loss("nll") == by_loss("kl")
    assert by_loss("nll") != by_loss("jeffreys")


def test_a_scans_density_is_that_of_a_prior_trained_alike():
    """One candidate against fit_flow's own validation loss, on other rows: three joint standard errors."""
    (row,) = run({"layers": [2]}, train=TrainConfig(batch_size=100, learning_rate=1e-2)).table
    train = TrainConfig(batch_size=100, learning_rate=1e-2, max_steps=200)
    fitted = fit_flow(KEY, banana(), FlowConfig(layers=2, hidden=(16,), base="normal"), train, progress=False)
    error = 3 * np.sqrt(2) * row["error"]
    assert row["log_density"] == pytest.approx(-fitted.history.validation_loss.min(), abs=error + 0.05)


def test_schedule_is_optax_s():
    for total in (1, 20, 777):
        warm_up = max(1, int(0.05 * total))
        other = optax.warmup_cosine_decay_schedule(0.0, 3e-3, warm_up, max(total, warm_up + 1))
        steps = np.arange(total)
        found = [float(learning_rate(step, 3e-3, total)) for step in steps]
        np.testing.assert_allclose(found, [float(other(step)) for step in steps], atol=1e-8)


def test_an_interrupted_scan_goes_on_where_it_was(tmp_path, monkeypatch, counted):
    whole = run(SIX)
    done, needed = [], len(counted)
    counted.clear()

    def impatient(task, real=rungs.run_task):
        if len(done) == 4:  # three in the first rung, one in the second
            raise KeyboardInterrupt
        done.append(task)
        return real(task)

    with monkeypatch.context() as patch:
        patch.setattr(rungs, "run_task", impatient)
        with pytest.warns(UserWarning, match="interrupted; the table shows what was done"):
            part = run(SIX, folder=tmp_path / "scan")
    assert part.interrupted
    assert {row["status"] for row in part.table} == {"finished", "stopped", "waiting"}
    with (tmp_path / "scan" / "scan.jsonl").open("ab") as file:
        file.write(b'{"candidate": 3, "rung": 1, "lo')  # killed while writing
    resumed = run(SIX, folder=tmp_path / "scan")
    assert_same_tables(whole, resumed)
    assert len(counted) == needed
    again = run(SIX, folder=tmp_path / "scan")
    assert again.table == resumed.table
    assert len(counted) == needed
    with pytest.raises(ValueError, match=r"holds another scan: .* got a different grid, rows\. Choose another folder"):
        run(rows=(10,), folder=tmp_path / "scan")
    chain = banana()
    with pytest.raises(ValueError, match=r"got a different chain\."):
        run(SIX, chain.replace(log_prob=chain.log_prob + 1.0), folder=tmp_path / "scan")
    assert len((tmp_path / "scan" / "scan.jsonl").read_text().splitlines()) == 1 + needed


@pytest.mark.parametrize("text", ["nonsense\n", '{"kind": "other"}\n', "[1]\n"])
def test_other_files_are_not_taken_for_a_scan(tmp_path, text):
    (tmp_path / "scan.jsonl").write_text(text)
    with pytest.raises(FileFormatError, match=r"scan.jsonl: "):
        run(folder=tmp_path)
    assert (tmp_path / "scan.jsonl").read_text() == text


def test_an_interrupt_before_anything_is_done_is_passed_on(monkeypatch):
    def interrupt(task):
        raise KeyboardInterrupt

    monkeypatch.setattr(rungs, "run_task", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run()


@pytest.mark.parametrize("float64", [False, True])
def test_processes_and_threads_give_the_serial_table(float64):
    """To rounding: another number of threads may add up a matrix product in another order."""
    atol = 1e-7 if float64 else 1e-3
    with jax.enable_x64(float64):
        serial = run()
        with ThreadPoolExecutor(2) as pool:
            assert_same_tables(serial, run(executor=pool), atol=atol)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            assert_same_tables(serial, run(executor=pool), atol=atol)


def test_a_dead_worker_is_told(monkeypatch):
    class Dead(ThreadPoolExecutor):
        def submit(self, *args, **kwargs):
            return super().submit(self.fail)

        def fail(self):
            raise BrokenProcessPool("killed")

    with Dead(1) as pool, pytest.raises(RuntimeError, match=r"a worker died \(killed\).*use fewer workers"):
        run(executor=pool)


def test_failing_candidates_are_rows(monkeypatch):
    real = rungs.run_between

    def fragile(*args, config, **settings):
        if config.layers == 2:
            raise MemoryError("out of memory")
        trained, state = real(*args, config=config, **settings)
        if args[4].learning_rate == np.float32(1e-5):
            trained["final"]["shift"] += np.nan
        return trained, state

    monkeypatch.setattr(rungs, "run_between", fragile)
    result = run()
    assert [row["status"] for row in result.table] == ["finished", "diverged", "failed", "failed"]
    assert result.best == result.candidates[result.table[0]["candidate"]]
    assert result.table[1]["message"] == "log q is not finite at 451 of 451 rows"
    assert result.table[2]["message"] == "MemoryError: out of memory"
    failed = run({"layers": [2], "loss": ["nll", "jeffreys"]})
    with pytest.raises(ValueError, match="no candidate was trained; message of the first: MemoryError: out of memory"):
        _ = failed.best
    assert "2 candidates: 2 failed" in str(failed)


def test_rungs():
    assert scan._plan(352, (1, 4, 16), 0.25, 0) == [(1, 352), (4, 88), (16, 22)]
    assert scan._plan(12, (1, 4, 16), 0.25, 0) == [(1, 12), (16, 4)]
    assert scan._plan(3, (1, 4, 16), 0.25, 0) == [(16, 3)]
    assert scan._plan(352, (4,), 0.25, 0) == [(4, 352)]
    assert scan._plan(352, (1, 4), 0.25, 3) == [(1, 352), (4, 88), (None, 3)]
    assert scan._plan(3, (1, 4), 0.25, 4) == [(None, 3)]


MIXED = replace(SMALL, members=2, background=True)
BRIEF = TrainConfig(max_steps=60, batch_size=100, learning_rate=1e-2, eval_every=30)


def test_mixtures_are_judged_as_fit_flow_makes_them(counted):
    """The last rung is fit_flow itself, on the rows that single members learn from, judged on the same others."""
    grid = {"layers": [1, 2, 3]}
    result = run(grid, rows=(500, 1000), train=BRIEF, config=MIXED, finalists=2)
    assert [(row["rung"], row["status"]) for row in result.table] == [(2, "finished"), (2, "finished"), (1, "stopped")]
    assert result.best.config.members == 2
    top = result.table[0]
    assert (top["steps"], top["rows"]) == (120, 12_000)
    task, _ = counted[0]
    key_split, key_train = task.source.keys
    taught, held, worth = held_apart(key_split, banana(), BRIEF.validation)
    (problem,) = pose(key_split, prepare(banana()), None, 1, BRIEF)
    np.testing.assert_array_equal(problem.held_draws.counted[0], prepare(banana()).x[held])
    assert set(taught) == set(problem.data.taught.counted)
    prior = fit_flow(key_train, banana().take(taught), *result.best, progress=False).prior
    log_q, _ = held_out_log_densities(prior, banana().take(held))
    assert top["log_density"] == pytest.approx(log_q.mean(), abs=1e-6)
    assert worth > 0.7 * len(held)  # but for the luck of the autocorrelation's estimate
    assert top["error"] == pytest.approx(log_q.std() / np.sqrt(worth), rel=1e-6)
    assert run(grid, rows=(500,), train=BRIEF, config=MIXED, finalists=0).table[0]["rung"] == 1


def settings_of(**chosen):
    return expand({name: [value] for name, value in chosen.items()}, SMALL, TrainConfig())[0]


@pytest.mark.parametrize(
    "chosen",
    [{"loss": "nll"}, {"loss": "jeffreys"}, {"loss": "jeffreys", "normalised": True}, {"loss": "log_variance"}],
    ids=str,
)
def test_candidates_are_trained_on_the_problem_that_fit_flow_would_pose(chosen):
    chain = banana().replace(log_evidence=1.5)
    config, train = rungs.shared_part(settings_of(likelihood=0.5, **chosen))
    source = scan._source(KEY, chain, [(config, train)])
    found, nats = rungs._posed(source, train, config)
    (expected,) = pose(source.keys[0], prepare(chain), None, 1, train)
    for one, other in zip(jax.tree.leaves(vars(found)), jax.tree.leaves(vars(expected)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert nats == pose(source.keys[0], prepare(chain), None, 1, TrainConfig())[0].offset


def test_problems_are_told_apart_by_all_that_posing_looks_at():
    """Also when `pose` comes to look at more."""
    seen = set()

    class Watched:
        def __init__(self, train):
            self.train = train

        def __getattr__(self, name):
            seen.add(name)
            return getattr(self.train, name)

    prepared = prepare(banana().replace(log_evidence=0.0))
    for train in (TrainConfig(loss="jeffreys", normalised=True), TrainConfig(loss="log_variance", clip=1.0)):
        pose(KEY, prepared, prepared, 2, Watched(train))
    assert seen == set(problem._LOOKED_AT)
    assert posed_by(train) == replace(train, clip=TrainConfig.clip)


def test_a_normalised_divergence_is_scanned_as_such():
    """The mass that a flow puts where there are no draws: the two losses differ in nothing else."""
    grid = {"loss": ["jeffreys"], "normalised": [False, True], "batch_size": [100], "learning_rate": [1e-2]}
    with pytest.raises(ValueError, match="TrainConfig.normalised needs chain.log_evidence"):
        run(grid)
    sources = [scan._source(KEY, banana().replace(log_evidence=z), expand(grid, SMALL, TrainConfig())) for z in (0, 1)]
    assert sources[0] != sources[1]  # else a folder would go on with the outcomes of another constant
    first, second = run(grid, banana().replace(log_evidence=0.0), rows=(2000,)).table
    assert first["log_density"] != second["log_density"]


@pytest.fixture
def alive():
    """Counts the problems and prepared chains that a test has made and that are still held."""

    def count():
        gc.collect()
        return sum(type(one) in (Problem, Prepared) for one in gc.get_objects())  # isinstance asks deprecated objects

    gc.freeze()  # what was there before is not looked at: millions of objects, at every count
    yield count
    gc.unfreeze()


class Posting(ThreadPoolExecutor):
    """An executor of this process that sends tasks as processes do."""

    def submit(self, function, task):
        return super().submit(function, pickle.loads(pickle.dumps(task)))


@pytest.mark.parametrize("executor", [None, ThreadPoolExecutor, Posting])
def test_nothing_of_the_chain_outlives_a_scan(alive, executor, monkeypatch):
    several = {**GRID, "loss": ["nll", "jeffreys"], "learning_rate": [1e-2]}
    during, real = [], rungs._held_log_density
    monkeypatch.setattr(rungs, "_held_log_density", lambda *task: (real(*task), during.append(alive()))[0])
    with nullcontext() if executor is None else executor(1) as pool:
        assert len(run(several, rows=(500,), executor=pool).table) == 4
        assert set(during) == {2}  # one problem, and the chain prepared for it
        assert alive() == 0


def test_a_worker_prepares_a_chain_once_and_keeps_the_last_one(alive, monkeypatch):
    """A task brings its own copy of the chain; what was made of the one before serves if they are equal."""
    made = []
    monkeypatch.setattr(rungs, "prepare", lambda *chain: made.append(1) or prepare(*chain))
    settings = rungs.shared_part(settings_of(batch_size=100))

    def arrive(chain):
        task = rungs.Task(scan._source(KEY, chain, [settings]), (0,), *settings, (1e-2,), 500)
        (outcome,) = rungs.run_task(pickle.loads(pickle.dumps(task)))
        assert outcome["status"] == "trained"

    for _ in range(3):
        arrive(banana())
    assert (len(made), alive()) == (1, 2)
    arrive(banana(2000))
    assert (len(made), alive()) == (2, 2)
    rungs.forget_arrived()
    assert alive() == 0


def test_an_interrupted_finalist_is_not_a_result(monkeypatch):
    real = rungs.fit_flow

    def interrupted(*args, **settings):
        fit = real(*args, **settings)
        return replace(fit, histories=(*fit.histories[:-1], replace(fit.history, interrupted=True)))

    monkeypatch.setattr(rungs, "fit_flow", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run({"layers": [1, 2]}, train=BRIEF, config=MIXED)


def test_finalists_are_of_all_sizes():
    """Each better than all smaller ones, from the smallest to the best; the next best where there are too few."""
    candidates = dict(enumerate(expand({"layers": range(2, 11), "learning_rate": [1e-2, 1e-3]}, SMALL, TrainConfig())))
    found = {j: 0.1 * config.layers - (train.learning_rate < 1e-2) for j, (config, train) in candidates.items()}
    log = scan.ScanLog(None, {})
    log.add(1, {j: {"log_density": value} for j, value in found.items()})
    chosen = scan._chosen(log, 1, candidates, 4, 2, in_full=True)
    assert [candidates[j].config.layers for j in chosen] == [2, 5, 7, 10]
    assert {candidates[j].train.learning_rate for j in chosen} == {1e-2}
    log.add(1, {j: {"log_density": -value} for j, value in found.items()})
    chosen = scan._chosen(log, 1, candidates, 3, 2, in_full=True)
    assert [candidates[j].config.layers for j in chosen] == [2, 3, 4]  # the smallest is the best: no front but it
    assert scan._chosen(log, 1, candidates, 3, 2, in_full=False) == chosen


def test_the_papers_grid():
    candidates = expand(PAPER_GRID, FlowConfig(members=3), TrainConfig(clip=1.0))
    assert len(candidates) == len(set(candidates)) == 4 * 11 * 4 * 3
    assert {(config.members, train.clip) for config, train in candidates} == {(3, 1.0)}
    assert len(set(rungs.first_alike(candidates))) == 352
    assert len({rungs.shared_part(candidate) for candidate in candidates}) == 88


def test_candidates_may_be_listed():
    pairs = [
        (replace(SMALL, layers=2), TrainConfig(batch_size=100)),
        (FlowConfig(hidden=(8,), layers=1, base="normal"), TrainConfig(batch_size=100)),
    ]
    result = run(pairs, rows=(500,))
    assert list(result.candidates) == pairs
    assert {row["hidden"] for row in result.table} == {(16,), (8,)}


NLL = TrainConfig()
REFUSED = [
    (lambda: run({"depth": [1]}), ValueError, "fields of FlowConfig or TrainConfig; got 'depth'. Choose from 'layers'"),
    (lambda: run({"layers": []}), ValueError, "grid: layers: expected at least one value"),
    (lambda: run({"layers": 2}), TypeError, r"grid: layers: expected a list of values; got 2. .* write \[2\]"),
    (lambda: run({"loss": "nll"}), TypeError, "grid: loss: expected a list"),
    (lambda: run({"layers": [2, -1]}), ValueError, "FlowConfig.layers"),
    (lambda: run({"max_steps": [10]}), ValueError, "'max_steps' cannot be scanned: `rows` sets"),
    (lambda: run({"members": [1, 2]}), ValueError, "'members' cannot be scanned"),
    (lambda: run({"layers": [2, 2]}), ValueError, "candidates that differ; .*layers=2.* more than once"),
    (lambda: run([]), ValueError, "expected at least one candidate"),
    (lambda: run("paper"), TypeError, "grid: expected a mapping .* got str"),
    (lambda: run([SMALL]), TypeError, r"grid\[0\]: expected a pair .* got \(FlowConfig\)"),
    (lambda: run([(NLL, SMALL)]), TypeError, r"got \(TrainConfig, FlowConfig\)"),
    (lambda: run([(SMALL, NLL), (SMALL, TrainConfig(validation=0.3))]), ValueError, r"one TrainConfig.validation"),
    (lambda: run(PAPER_GRID, correlated_chain(300)), ValueError, "losses 'jeffreys', 'kl' need the log density"),
    (lambda: run(chain=np.zeros((5, 2))), TypeError, "expected a Chain"),
    (lambda: run(executor=2), TypeError, "expected a concurrent.futures.Executor; got int"),
    (lambda: run(rows=(100, 100)), ValueError, "expected increasing numbers"),
    (lambda: run(rows=100), TypeError, "one per rung; got 100"),
    (lambda: run(keep=1.0), ValueError, "scan_flows: keep"),
    (lambda: run(folder="missing/scan"), FileNotFoundError, "Make it first"),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSED)
def test_what_cannot_be_scanned_is_refused(make, error, message, counted):
    with pytest.raises(error, match=message):
        make()
    assert not counted


def test_progress_bar_shows_and_is_quiet_when_told(capsys, monkeypatch):
    run({"layers": [1]}, rows=(500,))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("numpyro_flowprior._util.progress.Lines._written", -np.inf)
    run({"layers": [1]}, rows=(500,), progress=True)
    first, last = capsys.readouterr().err.splitlines()
    assert first == "scan: 0 of 1 fits"
    assert last.startswith("scan: 1 of 1 fits, ")
    monkeypatch.setattr("numpyro_flowprior._util.progress.is_looked_at", lambda: True)
    run({"layers": [1]}, rows=(500,), progress=True)
    assert "scan: 100%" in capsys.readouterr().err


@pytest.fixture
def on_disk(tmp_path):
    write_chain(tmp_path / "chain.npz", banana(1000))
    grid = {"layers": [1], "hidden": [[8], [16]], "learning_rate": [1e-2], "batch_size": [100], "base": ["normal"]}
    (tmp_path / "grid.json").write_text(json.dumps(grid))
    return tmp_path


def scan_command(folder, *arguments):
    return ["scan", str(folder / "chain.npz"), "--grid", str(folder / "grid.json"), "-q", *map(str, arguments)]


def test_command_scans_and_trains_the_best(on_disk, capsys, counted, monkeypatch):
    trained = []
    real = fit_flow

    def short(key, chain, config, train, **options):
        trained.append((config, train))
        return real(key, chain, FlowConfig(layers=1, hidden=(8,)), TrainConfig(max_steps=50), **options)

    monkeypatch.setattr("numpyro_flowprior.commands.fit_flow", short)
    best, table = on_disk / "best.safetensors", on_disk / "table.csv"
    arguments = scan_command(on_disk, "--folder", on_disk / "scan", "-o", best, "--csv", table, "--rows", 3000)
    arguments += ["--finalists", "0", "--learning-rate", "1e-2", "1e-5"]
    assert main(arguments) in (0, 1)
    text = capsys.readouterr().out
    assert "4 candidates: 4 finished" in text
    assert "gain over a Gaussian" in text
    assert FlowPrior.load(best).names == ("x", "y")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(counted) == 4
    ((config, train),) = trained
    assert (str(config.hidden), str(train.learning_rate)) == (rows[0]["hidden"], rows[0]["learning_rate"])
    assert rows[0]["learning_rate"] == "0.01"
    assert main(arguments) in (0, 1)  # all is done: nothing is trained but the best
    assert len(counted) == 4


def test_command_stops_when_interrupted(on_disk, capsys, monkeypatch):
    def interrupt(task, done=[], real=rungs.run_task):  # noqa: B006
        if done:
            raise KeyboardInterrupt
        done.append(task)
        return real(task)

    monkeypatch.setattr(rungs, "run_task", interrupt)
    with pytest.warns(UserWarning, match="interrupted"):
        assert main(scan_command(on_disk, "--rows", 500, "-o", on_disk / "best.safetensors")) == 130
    assert "1 finished, 1 waiting; interrupted" in capsys.readouterr().out
    assert not (on_disk / "best.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grid", "large"], "large: no such file. Pass a JSON file or the name of a grid: quick, paper"),
        (["--grid", "CHAIN"], "expected a JSON object that maps field names to lists"),
        (["--loss", "mse"], "TrainConfig.loss"),
        (["--workers", "0"], "workers"),
        (["--csv", "missing/t.csv"], "Make it first"),
        (["--rows", "5", "5"], "expected increasing numbers"),
    ],
)
def test_command_refuses_bad_input(on_disk, capsys, arguments, message):
    arguments = [str(on_disk / "chain.npz") if word == "CHAIN" else word for word in arguments]
    assert main(scan_command(on_disk, "-o", on_disk / "best.safetensors", *arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("flowprior scan: error: ")
    assert message in error


def test_worker_processes_share_the_cores():
    with process_pool(1) as pool:
        assert pool is None
    with process_pool(2) as pool:
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_DFL
        assert pool.submit(os.getenv, "NPROC").result() == str(max(1, os.cpu_count() // 2))
