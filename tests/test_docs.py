"""README and the pages of the site: their snippets run, their links lead somewhere, the reference is complete."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import numpy as np
import pytest
from toys import names_that_are_missing

import numpyro_flowprior
from numpyro_flowprior import Chain, ParameterSpace, write_chain

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "guides").glob("*.md"))]
SNIPPET = re.compile(r"^```(?:python|\{code-cell\})\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
COPIED = {"results": "benchmarks/results", "notebooks": "notebooks"}  # into docs/, by docs/conf.py


def snippets(page: Path) -> list[str]:
    return SNIPPET.findall(page.read_text())


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page)], ids=name_of)
def test_snippets_run_in_order(page, tmp_path, monkeypatch):
    """In one namespace a page, in a folder with a chain of two parameters; what a script guards is left out."""
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).uniform(size=(2000, 2))
    write_chain(tmp_path / "stage1.npz", Chain(rows, ParameterSpace(["a", "b"], 0.0, 1.0)))
    names = {"__name__": "snippet"}
    for snippet in snippets(page):
        exec(compile(snippet, name_of(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_snippets_are_python_and_ask_for_names_that_exist(page):
    for snippet in snippets(page):
        assert names_that_are_missing(snippet) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_within_the_repository_lead_to_files(page):
    missing = []
    for link in LINK.findall(page.read_text()):
        first = link.split("/")[0]
        path = ROOT / COPIED[first] / link.partition("/")[2] if page.parent != ROOT and first in COPIED else None
        if not (path or page.parent / link).exists():
            missing.append(link)
    assert missing == []


def test_the_readme_is_short_and_the_reference_complete():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    listed = re.findall(r"^   (\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(numpyro_flowprior.__all__)


def test_examples_in_docstrings_print_what_they_say():
    """Of every public object and its methods."""
    runner, finder = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE), doctest.DocTestFinder()
    public = [getattr(numpyro_flowprior, name) for name in numpyro_flowprior.__all__]
    tests = [
        test for thing in public if hasattr(thing, "__name__") for test in finder.find(thing, globs={}) if test.examples
    ]
    for test in tests:
        runner.run(test)
    assert len(tests) >= 7
    assert runner.failures == 0


def test_options_have_a_line_of_their_own_in_docstrings():
    """After other names the stars are markup for Sphinx, and the site is not built."""
    shared = re.compile(r"^\s+\w[^:()]*, \*\*?\w+:", re.MULTILINE)
    assert shared.search("    Args:\n        draws, **options: of it.")
    for path in Path(numpyro_flowprior.__file__).parent.rglob("*.py"):
        assert not shared.search(path.read_text()), path
