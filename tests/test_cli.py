"""The command line: each command on a small chain, and its errors."""

from __future__ import annotations

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from toys import correlated_chain

from numpyro_flowprior import Chain, Combined, FlowConfig, FlowPrior, TrainConfig, fit_flow, read_chain, write_chain
from numpyro_flowprior.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    write_chain(folder / "chain.npz", correlated_chain(4000))
    write_chain(folder / "other.npz", correlated_chain(2000, seed=1))
    arguments = ["fit", str(folder / "chain.npz"), "-o", str(folder / "prior.safetensors"), "-q"]
    assert main([*arguments, "--max-steps", "300", "--layers", "2", "--title", "A toy", "--licence", "CC0-1.0"]) == 0
    return folder


def test_fit_writes_a_prior_and_its_picture(folder):
    prior = FlowPrior.load(folder / "prior.safetensors")
    assert prior.names == ("a", "b")
    assert prior.config.layers == 2
    assert (folder / "prior.png").stat().st_size > 5000


def test_info(folder, capsys):
    assert main(["info", str(folder / "prior.safetensors")]) == 0
    text = capsys.readouterr().out
    assert text.startswith("A toy: prior over 2 parameters\n  licence: CC0-1.0\n  no citation: before publishing")
    assert "gain over a Gaussian" in text
    assert "verdict: PASS" in text
    assert correlated_chain(4000).fingerprint() in text
    assert main(["info", str(folder / "prior.safetensors"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["chain"]["rows"] == 4000
    assert record["metadata"] == {"title": "A toy", "licence": "CC0-1.0"}
    assert record["report"]["verdict"] == "pass"
    assert record["sha256"] in text


def test_the_report_that_a_file_holds_is_drawn(folder, capsys):
    picture = folder / "quality_of_file.png"
    assert main(["info", str(folder / "prior.safetensors"), "--picture", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"wrote {picture}" in capsys.readouterr().out


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_draws_are_written_as_columns_to_the_last_bit(folder, ending):
    prior = str(folder / "prior.safetensors")
    found = []
    for out in (folder / f"draws{ending}", folder / "whole.npz"):
        assert main(["sample", prior, "-n", "500", "-o", str(out), "--seed", "1"]) == 0
        found.append(read_chain(out))
    np.testing.assert_array_equal(found[0].samples, found[1].samples)
    np.testing.assert_array_equal(found[0].log_prob, found[1].log_prob)
    assert found[0].names == found[1].names


def test_sample_is_reproducible_and_carries_its_density(folder):
    out = str(folder / "draws.npz")
    for seed in ("1", "1", "2"):
        assert main(["sample", str(folder / "prior.safetensors"), "-n", "500", "-o", out, "--seed", seed]) == 0
        draws = read_chain(out)
        if seed == "1":
            first = draws
    assert draws.n == first.n == 500
    assert not np.array_equal(draws.samples, first.samples)
    prior = FlowPrior.load(folder / "prior.safetensors")
    np.testing.assert_allclose(draws.log_prob, prior.log_prob(draws.samples), atol=1e-3)


def test_check_passes_on_the_same_density_and_fails_on_another(folder, capsys):
    prior = str(folder / "prior.safetensors")
    picture = folder / "quality.png"
    assert main(["check", prior, str(folder / "other.npz"), "--picture", str(picture)]) == 0
    assert "verdict: PASS" in capsys.readouterr().out
    assert picture.stat().st_size > 5000
    other = read_chain(folder / "other.npz")
    write_chain(folder / "wrong.npz", other.replace(samples=1.0 - other.samples))
    assert main(["check", prior, str(folder / "wrong.npz"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "fail"


def test_combine_multiplies_posteriors(folder, monkeypatch, capsys):
    """The square of a density, under a flat prior: as its draws weighted with it."""
    small = {"config": FlowConfig(layers=1, hidden=(8,)), "train": TrainConfig(max_steps=200)}
    monkeypatch.setattr(
        Combined, "fit", lambda self, key, progress: fit_flow(key, self.chain, **small, progress=progress)
    )
    again = folder / "again.safetensors"
    again.write_bytes((folder / "prior.safetensors").read_bytes())
    out = folder / "both.safetensors"
    arguments = ["combine", str(folder / "prior.safetensors"), str(again), "--prior", "flat", "-o", str(out), "-q"]
    assert main([*arguments, "--bounds", "a", "-1", "2"]) == 0
    text = capsys.readouterr().out
    assert "prior and again on 'a', 'b'; log Bayes factor" in text
    assert "guards: PASS" in text
    draws, prior = read_chain(folder / "both.npz"), FlowPrior.load(again)
    assert FlowPrior.load(out).names == draws.names == ("a", "b")
    rows = np.asarray(prior.sample(jax.random.key(1), (50_000,)), np.float64)
    exact = Chain(rows, prior.space, weights=np.exp(np.asarray(prior.log_prob(rows), np.float64)), rows="independent")
    np.testing.assert_allclose(draws.mean(), exact.mean(), atol=0.02)
    np.testing.assert_allclose(draws.covariance(), exact.covariance(), atol=0.004)


def test_plot(folder):
    out = folder / "corner.png"
    assert main(["plot", str(folder / "chain.npz"), str(folder / "prior.safetensors"), "-o", str(out)]) == 0
    assert out.stat().st_size > 5000


def test_fit_of_a_csv_with_bounds_and_a_subset(folder):
    chain = correlated_chain(500)
    rows = np.column_stack([chain.samples, np.random.default_rng(0).permutation(500)])
    np.savetxt(folder / "c.csv", rows, delimiter=",", header="a,b,c", comments="")
    out = folder / "subset.safetensors"
    arguments = ["fit", str(folder / "c.csv"), "-o", str(out), "-q", "--max-steps", "50", "--no-picture"]
    assert main([*arguments, "--parameters", "b,a", "--bounds", "a", "0", "1", "--bounds", "b", "0", "inf"]) == 0
    prior = FlowPrior.load(out)
    assert prior.names == ("b", "a")
    np.testing.assert_array_equal(prior.space.bounds, [[0, np.inf], [0, 1]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "none.npz"], "none.npz: no such file"),
        (["info", "none.safetensors"], "no such file"),
        (["sample", "PRIOR", "-n", "0"], "at least one draw"),
        (["sample", "PRIOR", "-o", "draws.txt"], "expected a name ending in .npz, .csv or .parquet; got '.txt'"),
        (["sample", "PRIOR", "-o", "missing/draws.npz"], "Make it first"),
        (["fit", "CHAIN", "-o", "missing/p.safetensors"], "Make it first"),
        (["check", "PRIOR", "CHAIN", "--picture", "missing/q.png"], "Make it first"),
        (["plot", "CHAIN", "CHAIN", "CHAIN"], "given twice"),
        (["fit", "CHAIN", "--parameters", "a,zz"], "no parameter named 'zz'"),
        (["fit", "CHAIN", "--bounds", "a", "0.4", "1"], "rows are outside"),
        (["fit", "CHAIN", "--bounds", "a", "low", "1"], "could not convert"),
        (["fit", "CHAIN", "--layers", "-2"], "FlowConfig.layers"),
        (["check", "CHAIN", "CHAIN"], "not a readable safetensors file"),
        (["combine", "CHAIN", "--prior", "flat"], "expected two or more analyses; got 1"),
        (["combine", "CHAIN", "CHAIN", "--prior", "flat"], "file names that differ; got 'chain' twice"),
        (["combine", "CHAIN", "PRIOR", "--prior", "PRIOR", "--bounds", "a", "0", "1"], "with --prior flat alone"),
        (["combine", "CHAIN", "PRIOR", "--prior", "flat", "-o", "missing/c.safetensors"], "Make it first"),
    ],
)
def test_bad_input_exits_with_2_and_a_reason(folder, capsys, arguments, message):
    paths = {"PRIOR": str(folder / "prior.safetensors"), "CHAIN": str(folder / "chain.npz")}
    assert main([paths.get(argument, argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"flowprior {arguments[0]}: error: ")
    assert message in error


def test_numbers_below_zero_are_not_options(folder):
    out = folder / "unbounded.safetensors"
    bounds = ["--bounds", "a", "-inf", "inf", "--bounds", "b", "-1e-3", "1"]
    arguments = ["fit", str(folder / "chain.npz"), "-o", str(out), "-q", "--max-steps", "20", "--no-picture", *bounds]
    assert main(arguments) == 0
    np.testing.assert_array_equal(FlowPrior.load(out).space.bounds, [[-np.inf, np.inf], [-1e-3, 1.0]])


def test_files_of_one_name_are_all_drawn(folder, monkeypatch):
    drawn = {}
    monkeypatch.setattr("numpyro_flowprior.commands._save_corner", lambda path, chains: drawn.update(chains))
    (folder / "more").mkdir(exist_ok=True)
    write_chain(folder / "more" / "chain.npz", correlated_chain(100))
    assert main(["plot", str(folder / "chain.npz"), str(folder / "more" / "chain.npz")]) == 0
    assert [chain.n for chain in drawn.values()] == [4000, 100]


def test_help_and_info_need_no_jax(folder):
    code = f"""
import sys
from numpyro_flowprior.cli import main
assert main(["info", {str(folder / "prior.safetensors")!r}]) == 0
try:
    main(["fit", "--help"])
except SystemExit as stop:
    assert stop.code == 0
assert "jax" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_seeds_out_of_range_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["demo", "--seed", "-1"])
    assert "from 0 to 2**32 - 1" in capsys.readouterr().err


@pytest.mark.parametrize(("word", "trust"), [("check", None), ("trust", True), ("ignore", False)])
def test_fit_says_whether_to_trust_the_log_density(folder, monkeypatch, capsys, word, trust):
    def stop(*args, trust_log_prob, **kwargs):
        raise ValueError(f"told {trust_log_prob}")

    monkeypatch.setattr("numpyro_flowprior.commands.fit_flow", stop)
    arguments = ["fit", str(folder / "chain.npz"), "-o", str(folder / "again.safetensors"), "--log-prob", word]
    assert main(arguments) == 2
    assert f"told {trust}" in capsys.readouterr().err
