"""The model card: everything that a reader of a published file needs, whatever the file says of itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from toys import PRIOR_IDS, PRIOR_TABLE, make_prior

from numpyro_flowprior import FlowConfig, FlowPrior
from numpyro_flowprior.cli import main
from numpyro_flowprior.priors.model_card import card_json, card_text
from numpyro_flowprior.priors.prior_file import read_prior

DATA = Path(__file__).parent / "data"

CARD = """\
A fixture: prior over 4 parameters
  citation: none
  licence: CC0-1.0

Parameters
  name    lower  upper  unit  label
  eta     0.02   1.2    -     $\\eta$
  tau     0      inf    fm    $\\tau_0$
  kappa   -inf   2      -     $\\kappa$
  lambda  -inf   inf    GeV   $\\Lambda$

Architecture
  2 flows mixed as densities; over a Gaussian background; weights 0.317, 0.633; background 0.05
  2 pairs of spline couplings with 3 bins, permuted masks; networks with 4 hidden units, log-scales bounded by 1, hull 4
  base: a mixture of 2 Gaussians; whitened by mean and covariance; exactly normalised on the bounds
  1,108 trained parameters

Training
  loss nll, steps 300

Quality, on rows not used in training
  verdict: PASS
  held-out log density: -1.25 +- 0.01 nats
  gain over a Gaussian: 0.2 +- 0.01 nats

Chain
  rows 1000, effective size 900.5, fingerprint 0000"""


def test_the_card_of_a_file():
    stored = read_prior(DATA / "prior_schema_2.safetensors")
    text = card_text(stored)
    assert text.startswith(CARD)
    assert f"schema 2; content matches its checksum, SHA-256 {stored.checksum}" in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", ["prior_schema_1_single", "prior_schema_1_ensemble"])
def test_the_card_of_an_old_file_says_that_it_has_no_checksum(name):
    assert "schema 1: no checksum" in card_text(read_prior(DATA / f"{name}.safetensors"))


@pytest.mark.parametrize("row", PRIOR_TABLE, ids=PRIOR_IDS)
def test_every_architecture_has_a_card(row, tmp_path):
    stored = read_prior(make_prior(row[1], row[2]).save(tmp_path / "p.safetensors"))
    text = card_text(stored)
    assert ("bounds are ignored" in text) != row[2].support
    assert text.count("not recorded") == 3  # training, report, chain
    assert json.loads(json.dumps(card_json(stored)))["config"] == row[2].to_json()


def test_json_has_everything(capsys):
    path = DATA / "prior_schema_2.safetensors"
    assert main(["info", str(path), "--json"]) == 0
    record, prior = json.loads(capsys.readouterr().out), FlowPrior.load(path)
    assert record["config"] == prior.config.to_json()
    assert record["space"] == prior.space.to_json()
    assert {name: record[name] for name in prior.info} == prior.info
    assert record["arrays"]["mixture/weights"] == [3]
    assert (record["schema"], len(record["sha256"])) == (2, 64)


def test_remarks_of_any_kind_are_shown_but_cannot_steer_a_terminal(tmp_path):
    metadata = {"title": "A \x1b[31mred\x1b[0m title", "citation": "@article{a,\n  year = 2025}", "authors": ["A", {}]}
    prior = make_prior([(0.0, 1.0)], FlowConfig(layers=0))
    prior.info = {"report": {"verdict": 3, "reasons": "x", "gain": "y", "comparison": [], "log_density": None}, "x": 1}
    text = card_text(read_prior(prior.save(tmp_path / "p.safetensors", metadata=metadata)))
    assert text.startswith("A \\x1b[31mred\\x1b[0m title: prior over 1 parameter\n  citation: @article{a,\n      year")
    assert 'authors: ["A", {}]' in text
    assert "no licence: before publishing" in text
    assert "verdict: 3" in text
    assert "Other remarks\n  x 1" in text
    assert "\x1b" not in text


def test_numbers_are_rounded_for_reading_but_not_in_json():
    stored = read_prior(DATA / "prior_schema_2.safetensors")
    chain = {"effective_size": 1302.4250181792804, "acceptance": [0.23456789, 3], "runs": {"first": 1e-17 / 3}}
    stored = replace(stored, info={**stored.info, "chain": chain})
    assert 'effective size 1302.4, acceptance [0.23457, 3], runs {"first": 3.3333e-18}' in card_text(stored)
    assert card_json(stored)["chain"] == chain


def test_a_failed_prior_says_why():
    stored = read_prior(DATA / "prior_schema_2.safetensors")
    report = {"verdict": "fail", "reasons": ["means: a is off by 3 sigma"], "classifier": {"auc": 0.8, "p_value": 1e-9}}
    text = card_text(replace(stored, info={**stored.info, "report": report}))
    assert "verdict: FAIL\n    - means: a is off by 3 sigma\n" in text
    assert "classifier's area under the curve: 0.8 (p = 1e-09)" in text
