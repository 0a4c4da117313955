"""What a release needs agrees with itself: versions, metadata, extras, workflows and the targets of make."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from numpyro_flowprior import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CODEMETA = json.loads((ROOT / "codemeta.json").read_text())
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "docs" / "guides").glob("*.md"))
GITHUB = ROOT / ".github"  # absent from the source archive
YAML = [*sorted(GITHUB.rglob("*.yml")), *ROOT.glob(".pre-commit-config.yaml"), ROOT / "CITATION.cff"]
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))


def citation(field: str) -> str:
    """The value of a field at the top level of CITATION.cff."""
    return re.search(rf"^{field}: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1]


def released() -> tuple[str, str]:
    """The version and the date of the newest release in the changelog."""
    return re.search(r"^## \[(\d[^\]]*)\] - (\d{4}-\d{2}-\d{2})$", CHANGELOG, re.MULTILINE).groups()


def test_versions_agree():
    versions = {citation("version"), CODEMETA["version"], CODEMETA["softwareVersion"], released()[0], __version__}
    assert versions == {__version__}


def test_dates_agree():
    assert {citation("date-released"), CODEMETA["datePublished"]} == {released()[1]}


def test_the_changelog_begins_with_what_is_unreleased_and_groups_the_rest():
    headings = re.findall(r"^## (.+)$", CHANGELOG, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    newest = CHANGELOG.split(f"## [{__version__}]")[1].split("\n## ")[0]
    assert re.findall(r"^### (.+)$", newest, re.MULTILINE) == ["Added", "Changed", "Removed", "Fixed"]


def test_metadata_agree_with_pyproject():
    assert citation("title") == CODEMETA["name"] == PROJECT["name"]
    assert citation("license") == PROJECT["license"]
    assert CODEMETA["license"] == f"https://spdx.org/licenses/{PROJECT['license']}"
    assert CODEMETA["description"] == PROJECT["description"]
    assert CODEMETA["softwareRequirements"] == PROJECT["dependencies"]
    assert CODEMETA["runtimePlatform"] == f"Python {PROJECT['requires-python']}"
    keywords = re.findall(r"^  - (\w.*)$", (ROOT / "CITATION.cff").read_text().split("keywords:")[1], re.MULTILINE)
    assert [word for word in keywords if ":" not in word] == CODEMETA["keywords"] == PROJECT["keywords"]


def test_classifiers_name_the_versions_of_python_that_are_supported():
    lowest, above = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()
    named = [int(found) for found in re.findall(r"Python :: 3\.(\d+)", "\n".join(PROJECT["classifiers"]))]
    assert named == list(range(int(lowest), int(above)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_extras_that_pages_name_exist(page):
    named = re.findall(r"numpyro[-_]flowprior\[([\w, -]+)\]", page.read_text())
    assert {extra.strip() for names in named for extra in names.split(",")} <= set(PROJECT["optional-dependencies"])


def test_the_readme_names_every_extra_for_users():
    install = (ROOT / "README.md").read_text().split("## Install")[1].split("\n## ")[0]
    assert all(name in install for name in PROJECT["optional-dependencies"] if name not in ("dev", "docs"))


def test_minimal_versions_on_the_page_on_stability_are_those_of_pyproject():
    page = (ROOT / "docs" / "stability.md").read_text()
    for name, package in {"JAX": "jax", "NumPyro": "numpyro"}.items():
        (lowest,) = (need.partition(">=")[2] for need in PROJECT["dependencies"] if need.startswith(f"{package}>="))
        assert f"{name} {lowest} or later" in page


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_yaml_can_be_parsed(path):
    yaml = pytest.importorskip("yaml")
    assert isinstance(yaml.safe_load(path.read_text()), dict)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_targets_and_variables_that_the_makefile_has(path):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    variables = set(re.findall(r"\b([A-Z_]+) *[:?]?=", makefile)) | set(re.findall(r"\$\((\w+)\)", makefile))
    for target, rest in re.findall(r"\bmake ([a-z]+)(.*)$", path.read_text(), re.MULTILINE):
        assert target in targets
        assert set(re.findall(r"\b([A-Z_]+)=", rest)) <= variables


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_read_only_and_cancel_by_group(path):
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert "group" in workflow["concurrency"]
    for name, job in workflow["jobs"].items():
        assert job.get("permissions", {}) == ({"id-token": "write"} if name == "publish" else {})
