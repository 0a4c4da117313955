"""The HTML report: well-formed, self-contained, complete; what files say is text in it and never markup."""

from __future__ import annotations

import hashlib
import sys
from base64 import b64encode
from dataclasses import replace
from xml.etree import ElementTree

import jax
import numpy as np
import pytest

from numpyro_flowprior import (
    Chain,
    FlowConfig,
    Guards,
    ParameterSpace,
    StagedAnalysis,
    TrainConfig,
    fit_flow,
    write_chain,
    write_report,
)
from numpyro_flowprior.cli import main
from numpyro_flowprior.stages import html as module
from numpyro_flowprior.stages.analysis import StageResult
from numpyro_flowprior.stages.folder import begin_folder, report_of, write_json
from numpyro_flowprior.stages.guards import Finding

KEY = jax.random.key(5)
SPACE = ParameterSpace(["a", "b_G"], units=["GeV^-2", ""], labels=["$a$", "$b_G$"])
INFO = {
    "sampler": "pocomc",
    "seed": 123456,
    "temperatures": [0.0, *np.geomspace(0.01, 1.0, 20).tolist()],
    "stopped_by": None,
    "converged": True,
    "convergence": {"autocorrelation_time": 1.0},
    "versions": {"pocomc": "1.2.6"},
}
SETTINGS = {"sampler": "sample_pocomc", "robust": 0.0}
GUARDS = Guards(
    (
        Finding("shifts of the parameters", "warn", "Q = 9 +- 1", "Fit jointly."),
        Finding("sensitivity to powers of the prior", "info", "not known"),
    ),
    {},
)


def chain_at(mean, n=2000, space=SPACE, **fields):
    rows = np.random.default_rng(0).normal(mean, 1.0, size=(n, space.dim))
    return Chain(rows, space, **{"log_evidence": -1.5, "log_evidence_error": 0.3, "info": INFO, **fields})


@pytest.fixture(scope="module")
def analysis():
    """Two stages whose posterior is a normal, the second shifted by one standard deviation."""
    flow = {"config": FlowConfig(layers=0, base="normal"), "train": TrainConfig(max_steps=1, eval_every=1)}
    learned = fit_flow(KEY, chain_at(0.0), **flow, progress=False).prior
    first = StageResult("light", chain_at(0.0), learned, report_of(learned), settings=SETTINGS)
    second = StageResult("heavy", chain_at(1.0, log_evidence=-2.0, log_evidence_error=0.4), guards=GUARDS)
    return StagedAnalysis((first, second))


@pytest.fixture(scope="module")
def page(analysis, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert write_report(analysis, path, title="Light, then heavy", date="1 May 2026", key=KEY) == path
    return parsed(path.read_text())


def parsed(text):
    """The document, which is XML too: its parser refuses what is not well-formed."""
    return ElementTree.fromstring(text)


def words(page):
    return " ".join(" ".join(page.find("body").itertext()).split())


def tables(page):
    return [[[" ".join(cell.itertext()) for cell in row] for row in table.iter("tr")] for table in page.iter("table")]


def test_nothing_is_loaded_from_elsewhere(page):
    assert not {"link", "iframe", "object", "base"} & {element.tag for element in page.iter()}
    (script,) = page.iter("script")
    policy = next(meta.get("content") for meta in page.iter("meta") if meta.get("http-equiv"))
    digest = b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert script.attrib == {}
    assert all(image.get("src").startswith("data:image/png;base64,") for image in page.iter("img"))
    assert all(image.get("alt") for image in page.iter("img"))
    anchors = {f"#{element.get('id')}" for element in page.iter() if element.get("id")}
    assert {link.get("href") for link in page.iter("a")} == anchors
    assert not {"http:", "https:", "url(", "@import"} & set(page.find("head/style").text.split())


def test_heading_says_verdict_stages_date_and_evidence(page):
    assert page.find("head/title").text == page.find("body/header/h1").text == "Light, then heavy"
    facts = dict(tables(page)[0])
    assert facts["Verdict"] == "! WARN"
    assert facts["Stages"] == "light, heavy"
    assert facts["Date"] == "1 May 2026"
    assert facts["Log evidence of these stages"] == "-3.500 ± 0.500 (under the learned prior in 'heavy')"


def test_parameters_have_moments_quantiles_units_and_shifts(analysis, page):
    head, first, _ = next(table for table in tables(page) if "Shift [sigma]" in table[0])
    assert first[:2] == ["a", "GeV^-2"]
    before, after = (chain.samples[:, 0] for chain in analysis.chains.values())
    expected = [
        after.mean(),
        after.std(),
        *np.quantile(after, [0.16, 0.5, 0.84]),
        (after - before).mean() / before.std(),
    ]
    found = dict(zip(head, first, strict=True))
    for name, value in zip(
        ("Mean", "Standard deviation", "16 %", "50 %", "84 %", "Shift [sigma]"), expected, strict=True
    ):
        assert float(found[name]) == pytest.approx(value, abs=6e-3), name


def test_sampler_guards_report_settings_and_versions_are_all_there(analysis, page):
    text = words(page)
    for finding in GUARDS.findings:
        row = next(row for table in tables(page) for row in table if row[0] == finding.subject)
        assert row[1:] == [
            {"warn": "! WARN", "info": "i INFO"}[finding.verdict],
            finding.text.replace("+-", "±"),
            finding.advice,
        ]
    for subject in analysis["light"].report.statements:
        assert subject in text
    for expected in ("seed 123456", "converged yes", "convergence: autocorrelation time 1", "(21 values)", "robust 0"):
        assert expected in text
    assert "Versions light heavy pocomc 1.2.6 1.2.6" in text
    assert [image.get("alt").split()[0] for image in page.iter("img")] == [
        "intervals",
        "corner",
        "quality",
        "corner",
        "guards:",
    ]
    assert "None: the prior of the first stage was not learnt." in text
    assert "None: the run ended before it was trained." in text
    for word in module._GLOSSARY:
        assert word in text


NASTY = '</td><script>alert("1")</script><img src="http://x/"/>&amp;\x00\x1b[31m\ud800'


def remarked(analysis, word):
    """The analysis with a word in all that may come from a file."""
    space = ParameterSpace([word, "b"], units=[word, ""], labels=[word, f"${word}"])
    info = {word: word, "list": [word], "record": {word: word}, "versions": {word: word}}
    chain = chain_at(0.0, n=50, space=space, info=info)
    report = replace(analysis["light"].report, reasons=(word,))
    guards = Guards((Finding(word, word, word, word),), {})
    return StagedAnalysis((StageResult(word, chain, None, report, guards, {word: word}),))


def test_what_files_say_is_text(analysis, monkeypatch):
    """A page of nasty names, remarks and findings has the elements and attributes of one of harmless ones."""
    monkeypatch.setattr(module, "picture", lambda draw, alt, caption: module.element("img", src="", alt=alt))
    monkeypatch.setattr(Guards, "verdict", "warn")
    harmless, nasty = (
        parsed(module.report_page(KEY, remarked(analysis, word), title=word)) for word in ("harmless", NASTY)
    )
    for one, other in zip(harmless.iter(), nasty.iter(), strict=True):
        assert one.tag == other.tag
        assert set(one.attrib) == set(other.attrib)
    assert words(nasty).count("alert") == words(harmless).count("harmless") > 15
    assert "\\x00\\x1b[31m\\ud800" in words(nasty)


def test_many_parameters_are_cut_and_stages_without_a_common_one_say_so(monkeypatch):
    monkeypatch.setattr(module, "_MOST", 1)
    one = StageResult("one", chain_at(0.0))
    other = StageResult("other", chain_at(0.0, space=ParameterSpace(["c"]), log_evidence=None))
    many = words(parsed(module.report_page(KEY, StagedAnalysis((one,)), title="t")))
    assert "The first 1 of 2 parameters: plot_corner(..., names=[...]) draws others." in many
    apart = words(parsed(module.report_page(KEY, StagedAnalysis((one, other)), title="t")))
    assert "the stages have no parameter in common" in apart
    assert "new" in apart  # in place of a shift
    assert "Log evidence of these stages unknown" in apart
    assert "Guards None for this posterior." in apart
    assert "Settings of the run" not in apart


def test_what_is_not_a_number_is_not_printed_as_one(monkeypatch):
    monkeypatch.setattr(module, "picture", lambda draw, alt, caption: module.element("p", alt))
    info = {"error": np.nan, "limits": [np.float32("nan"), -np.inf]}
    after = StageResult("after", chain_at(0.0, info=info, log_evidence_error=np.inf))
    with pytest.warns(UserWarning, match="takes a single value"):
        stuck = chain_at(0.0).replace(samples=np.zeros((2000, 2)), log_evidence=np.nan)
    analysis = StagedAnalysis((StageResult("before", stuck), after))
    with pytest.warns(UserWarning, match="takes a single value"):
        page = module.report_page(KEY, analysis, title="t")
    text = words(parsed(page))
    assert not {"nan", "+nan", "inf", "+inf", "-inf"} & set(text.split())
    assert "error unknown limits unknown, -infinite" in text
    assert "log evidence -1.500 error" in text
    assert "2000 (effective size 2000)" in text
    assert "nan" not in str(analysis)


def test_rows_of_weight_zero_are_no_draws(monkeypatch):
    monkeypatch.setattr(module, "picture", lambda draw, alt, caption: module.element("p", alt))
    weights = np.where(np.arange(2000) < 1500, 1.0, 0.0)
    stage = StageResult("one", chain_at(0.0, weights=weights, weights_kind="importance"))
    analysis = StagedAnalysis((stage,))
    assert "1500 draws, effective size 1500" in str(analysis)
    assert "1500 (effective size 1500)" in words(parsed(module.report_page(KEY, analysis, title="t")))


def test_without_matplotlib_there_are_no_pictures(analysis, monkeypatch, tmp_path):
    for name in ("matplotlib.figure", "matplotlib.mathtext"):
        monkeypatch.setitem(sys.modules, name, None)
    page = parsed(write_report(analysis, tmp_path / "bare.html").read_text())
    assert not list(page.iter("img"))
    assert words(page).count("needs matplotlib, which is not installed") == 5


def folder_of(analysis, root):
    for stage, files in zip(analysis.stages, begin_folder(root, list(analysis.chains)), strict=True):
        files.begin({"name": stage.name, **SETTINGS})
        write_chain(files.chain, stage.chain)
        if stage.learned:
            stage.learned.save(files.prior(reweighted=False))
        if stage.guards:
            write_json(files.guards(reweighted=False), stage.guards.to_json())
    return root


def test_command(analysis, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # pictures are seen to above
    folder = folder_of(analysis, tmp_path / "run")
    assert main(["report", str(folder)]) == 0
    assert "staged analysis of 2 stages: WARN" in capsys.readouterr().out
    text = words(parsed((folder / "report.html").read_text()))
    assert "sampler sample_pocomc" in text
    assert f"numpy {np.__version__}" in text
    assert "Date not recorded" not in text
    failed = replace(analysis.stages[0], chain=chain_at(0.0, info={"converged": False}), learned=None)
    folder, out = folder_of(StagedAnalysis((failed,)), tmp_path / "failed"), tmp_path / "failed.html"
    assert main(["report", str(folder), "-o", str(out), "--title", "Too short"]) == 1
    assert out.read_text().count("Too short") == 2
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "the folder none does not exist"),
        (
            ["none", "-o", "report.html"],
            "expected a folder that run_stages(folder=...) wrote; got no analysis.json in it",
        ),
        ([".", "-o", "missing/report.html"], "Make it first"),
    ],
)
def test_command_says_what_is_wrong(arguments, message, capsys):
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("flowprior report: error: ")
    assert message in error
