"""Results show themselves: a line as repr, the table as str and in notebooks, no dumps of arrays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from toys import make_prior

from numpyro_flowprior import Chain, FlowConfig, Guards, ParameterSpace, TrainConfig, compare, fit_flow
from numpyro_flowprior._util.described import described
from numpyro_flowprior._util.display import with_error
from numpyro_flowprior.stages.findings import Finding
from numpyro_flowprior.training.scan_result import ScanResult

RNG = np.random.default_rng(0)
SPACE = ParameterSpace(["a", "b<c"], -9.0, 9.0, units=["GeV", ""])
CHAIN = Chain(RNG.normal(size=(2000, 2)), SPACE)
QUICK = FlowConfig(layers=0, base="normal"), TrainConfig(max_steps=1, eval_every=1)
FIT = fit_flow(jax.random.key(0), CHAIN, *QUICK, progress=False)
ROW = {"candidate": 0, "log_density": -1.5, "error": 0.1, "seconds": 3.0, "status": "finished", "message": ""}
GUARDS = Guards((Finding("shift", "warn", "0.4 sigma", "look"), Finding("rows", "pass", "many", "")), {}, False)
RESULTS = [CHAIN, FIT, FIT.prior, FIT.report, compare(CHAIN, CHAIN, classify=False), GUARDS, ScanResult(((),), (ROW,))]


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_results_are_a_line_in_a_list_and_a_table_in_print(result):
    line, table, page = repr(result), str(result), result._repr_html_()
    assert line.startswith(type(result).__name__)
    assert "\n" not in line
    assert len(line) < 150
    assert "\n" in table
    assert "array(" not in line + table
    assert page.startswith("<pre>")
    assert "b<c" not in page


def test_a_chain_shows_its_numbers():
    shown = str(CHAIN).splitlines()[-2].split()
    assert shown[0] == "a"
    np.testing.assert_allclose(float(shown[1]), CHAIN.mean()[0], rtol=1e-5)
    np.testing.assert_allclose(float(shown[2]), CHAIN.samples[:, 0].std(), rtol=1e-5)
    np.testing.assert_allclose([float(x) for x in shown[3:6]], CHAIN.quantile([0.05, 0.5, 0.95])[:, 0], rtol=1e-5)
    assert shown[-1] == "GeV"


def test_an_epoch_is_shown_to_the_digits_that_it_is_known_to():
    epoch = Chain(1187008882.43 + 0.001 * CHAIN.samples, ParameterSpace(["t", "u"]))
    shown = str(epoch).splitlines()[-2].split()
    assert abs(float(shown[1]) - epoch.mean()[0]) < 1e-4
    assert float(shown[3]) < float(shown[4]) < float(shown[5])


def test_names_cannot_steer_a_terminal():
    assert "\x1b" not in str(Chain(CHAIN.samples, ParameterSpace(["a\x1b[31m", "b"]))).split("\n", 1)[1]


def test_a_report_of_a_file_that_may_hold_anything_is_not_shown():
    for report in ("pass", {"verdict": "\x1b[31mpass"}, None):
        prior = make_prior([(0.0, 1.0)], FlowConfig(layers=1, hidden=(8,)))
        prior.info = {"report": report}
        assert str(prior).endswith("report: none")


def test_a_prior_is_described_alike_in_every_process():
    code = (
        "import sys, json; sys.path.insert(0, 'tests'); from toys import make_prior; import numpyro_flowprior as fp; "
        "from numpyro_flowprior._util.described import described; "
        "print(json.dumps(described(make_prior([(0.0, 1.0)], fp.FlowConfig(layers=1, hidden=(4,))))))"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2, 3)
    ]
    assert told[0]
    assert len(set(told)) == 1


def test_checkpoints_know_priors_by_the_names_that_they_began_with():
    assert described(FIT.prior)[0] == "numpyro_flowprior.prior.FlowPrior"


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.07912, 0.7, "0.08 +- 0.70"),
        (793.98512, 0.00123, "793.9851 +- 0.0012"),
        (1.0, 0.0996, "1.00 +- 0.10"),
        (-12345.6, 234.0, "-12350 +- 230"),
        (3.2e-9, 4.56e-10, "3.20e-09 +- 0.46e-09"),
        (4.5e12, 3.21e11, "4.50e+12 +- 0.32e+12"),
        (0.0, 1.0, "0.0 +- 1.0"),
        (-0.01, 1.0, "0.0 +- 1.0"),
        (7.0, 0.0, "7 +- 0"),
        (1.5, np.inf, "1.5 +- inf"),
        (np.nan, 0.1, "nan +- 0.10"),
        (3.300000000000026, 2.6e-14, "3.3 +- 2.6e-14"),
        (np.float64(1.0), np.float64(1e-310), "1 +- 1e-310"),
        (9.99e-5, 1e-5, "0.000100 +- 0.000010"),
    ],
)
def test_numbers_have_the_digits_of_their_errors(value, error, text):
    assert with_error(value, error) == text
