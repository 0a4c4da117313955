"""The demo at its quick size: complete, and its last line names a picture that is there."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest

from numpyro_flowprior import StagedAnalysis
from numpyro_flowprior.examples.demo import QUICK, DemoResult, run_demo
from numpyro_flowprior.stages.analysis import StageResult


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_quick_demo_runs_and_says_what_to_open(tmp_path):
    result = run_demo(tmp_path / "out", QUICK, progress=False)
    text = str(result)
    assert text.splitlines()[-2].startswith(f"Open first: {tmp_path / 'out' / 'corner_stages.png'}")
    assert all(path.stat().st_size > 0 for path in result.files)
    record = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert set(record["comparisons"]) == {"stage2_pocomc", "stage2_reweighted"}
    assert math.isfinite(record["stages"]["log_evidence"])
    assert "report.html" in text


def test_a_chain_that_did_not_converge_is_marked(tmp_path):
    kl = SimpleNamespace(average=0.1)
    found = SimpleNamespace(kl=kl, floor=SimpleNamespace(mean=lambda: 0.05), excess=0.05, excess_error=0.01)
    chains = {
        name: SimpleNamespace(info={"converged": name != "stage2_emcee"}, log_evidence=None, log_evidence_error=None)
        for name in ("stage1", "joint", "stage2_pocomc", "stage2_reweighted", "stage2_emcee", "stage2_emcee_flow")
    }
    analysis = StagedAnalysis((StageResult("one", chains["stage1"]),))
    names = [name for name in chains if name.startswith("stage2")]
    text = str(DemoResult(chains, analysis, dict.fromkeys(names, found), (0.03, 0.001), {}, [tmp_path / "a.nc"]))
    rows = {line.split("  ")[0]: line.split()[-6] for line in text.splitlines() if "+- 0.010" in line}
    assert rows["emcee, as in the paper"] == "NO"
    assert sorted(rows.values()) == ["NO", "yes", "yes", "yes"]
