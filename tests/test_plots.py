"""Pictures: contours hold the masses they claim, reports show what they found, and what cannot be drawn is refused."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from toys import correlated_chain, mixture_prior

from numpyro_flowprior import (
    Chain,
    EmulatorValidation,
    ParameterSpace,
    compare,
    plot_comparison,
    plot_corner,
    plot_emulator,
    plot_quality,
    quality_report,
)
from numpyro_flowprior.plots.corner import CONTOUR_MASSES, density_2d, highest_density_levels


def test_contours_enclose_one_two_three_sigma():
    """For a 2-D normal, the k-sigma region is r < k; the level must be the density there, smoothing allowed for."""
    np.testing.assert_allclose(CONTOUR_MASSES, 1 - np.exp(-0.5 * np.arange(1, 4) ** 2), atol=1e-4)
    samples = np.random.default_rng(0).normal(size=(400_000, 2)).clip(-5.9, 5.9)
    chain = Chain(samples, ParameterSpace(["x", "y"], -6.0, 6.0))
    x, y, density = density_2d(chain, (0, 1), chain.space.bounds, 120)
    levels = highest_density_levels(density, CONTOUR_MASSES)
    radius = np.hypot(*np.meshgrid(x, y, indexing="ij"))
    for k, level in enumerate(levels, start=1):
        boundary = radius[(density > level * 0.93) & (density < level * 1.07)]
        assert boundary.mean() == pytest.approx(k, rel=0.03)


def test_axes_span_the_declared_box_and_names_are_matched(tmp_path):
    first = correlated_chain(2000)
    second = first.select(["b", "a"])
    figure = plot_corner({"one": first, "two": second}, truth={"a": 0.5}, title="t")
    assert len(figure.axes) == 4
    assert figure.axes[2].get_xlim() == (0.0, 1.0)
    assert figure.axes[2].get_ylim() == (0.0, 1.0)
    figure.savefig(tmp_path / "c.png")
    assert (tmp_path / "c.png").stat().st_size > 5000


def test_axes_carry_labels_and_units_with_raised_exponents():
    samples = np.random.default_rng(0).uniform(size=(500, 2))
    space = ParameterSpace(["b", "s"], 0.0, 1.0, units=["GeV^-2", ""], labels=["$B_G$", "s"])
    axes = plot_corner({"one": Chain(samples, space)}).axes
    assert {axis.get_xlabel() for axis in axes} == {"", "$B_G$ [GeV$^{-2}$]", "s"}


def test_labels_that_are_no_formula_are_drawn_as_they_are(tmp_path):
    samples = np.random.default_rng(0).uniform(size=(500, 2))
    chain = Chain(samples, ParameterSpace(["a", "b"], 0.0, 1.0, units=["$", ""], labels=["$a", r"$\b$"]))
    plot_corner({r"$\x^$": chain}).savefig(tmp_path / "corner.png")


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="at least one chain"):
        plot_corner({})
    with pytest.raises(ValueError, match="'one' lacks 'z'"):
        plot_corner({"one": correlated_chain(100)}, names=["z"])
    other = Chain(np.random.default_rng(0).normal(size=(100, 1)), ParameterSpace(["q"]))
    with pytest.raises(ValueError, match="no parameter in common"):
        plot_corner({"one": correlated_chain(100), "two": other})


@pytest.mark.parametrize("dim", [1, 20])
def test_a_report_in_one_figure(dim, tmp_path):
    """The wrong parameter is red, the others are not, and no text runs out of the figure."""
    prior = mixture_prior(dim, [(1.0, 0.0, 1.0)])
    rows = np.random.default_rng(0).normal(size=(1500, dim))
    rows[:, 0] *= 1.5
    report = quality_report(jax.random.key(0), prior, Chain(rows, prior.space))
    figure = plot_quality(report)
    figure.savefig(tmp_path / "q.png")
    assert figure.get_suptitle().startswith(report.verdict.upper())
    assert report.reasons[0] in figure.get_suptitle()
    divergences, _, pairs, *_ = figure.axes
    assert [label.get_text() for label in divergences.get_yticklabels()] == list(prior.names)
    red = (divergences.collections[-1].get_facecolors()[:, 0] > 0.5).tolist()
    assert red == [True] + [False] * (dim - 1)
    assert pairs.axison == (dim > 1)
    width, height = figure.bbox.size
    boxes = [axis.get_tightbbox() for axis in figure.axes]
    assert all(b.x0 > -5 and b.y0 > -5 and b.x1 < width + 5 and b.y1 < height + 5 for b in boxes)


@pytest.mark.parametrize("dim", [1, 20])
def test_a_comparison_in_one_figure(dim, tmp_path):
    """Divergences, floors, shifts, widths and shares are those found, and no text runs out of the figure."""
    rng = np.random.default_rng(0)
    space = ParameterSpace([f"p{j}" for j in range(dim)], labels=[f"$p^{j}$" for j in range(dim)])
    chains = []
    for share, sigma in ((0.3, 1.0), (0.5, 1.3)):
        rows = rng.normal(size=(3000, dim))
        rows[:, 0] = sigma * rows[:, 0] + np.where(rng.random(3000) < share, -4.0, 4.0)
        chains.append(Chain(rows, space))
    found = compare(*chains)
    figure = plot_comparison(found, labels=space.labels, legends=("joint fit", "two stages"), title="t")
    figure.savefig(tmp_path / "c.png")
    divergences, shifts, widths, modes = figure.axes
    assert [label.get_text() for label in divergences.get_yticklabels()] == list(space.labels)
    np.testing.assert_allclose(divergences.collections[-1].get_offsets()[:, 0], found.kl.one_d)
    np.testing.assert_allclose([bar.get_width() for bar in divergences.patches], found.floor_mean.one_d)
    np.testing.assert_allclose(shifts.collections[-1].get_offsets()[:, 0], found.shift)
    np.testing.assert_allclose(widths.collections[-1].get_offsets()[:, 0], found.width_ratio)
    np.testing.assert_allclose(modes.lines[0].get_xdata(), found.modes[0].a)
    assert modes.get_yticklabels()[0].get_text().startswith("$p^0$ < ")
    assert "two stages, compared with joint fit" in figure.get_suptitle()
    width, height = figure.bbox.size
    boxes = [axis.get_tightbbox() for axis in figure.axes]
    assert all(b.x0 > -5 and b.y0 > -5 and b.x1 < width + 5 and b.y1 < height + 5 for b in boxes)


def test_a_comparison_without_modes_or_scatter_is_drawn(tmp_path):
    chain = correlated_chain(500)
    figure = plot_comparison(compare(chain, chain, repeats=1, modes={}, classify=False))
    assert len(figure.axes) == 3
    assert "classifier" not in figure.get_suptitle()
    figure.savefig(tmp_path / "c.png")
    with pytest.raises(ValueError, match="labels: expected 2, one for each of 'a', 'b'; got 1"):
        plot_comparison(compare(chain, chain, classify=False), labels=["a"])


def test_the_report_of_a_prior_is_drawn_with_its_labels():
    prior = mixture_prior(2, [(1.0, 0.0, 1.0)])
    with pytest.raises(ValueError, match="holds no report"):
        plot_quality(prior)
    chain = Chain(np.random.default_rng(0).normal(size=(500, 2)), prior.space)
    report = quality_report(jax.random.key(0), prior, chain)
    prior.info = {"report": report.to_json()}
    drawn = plot_quality(prior)
    assert drawn.get_suptitle() == plot_quality(report, labels=prior.space.labels).get_suptitle()


@pytest.mark.parametrize("m", [1, 12, 110])
def test_a_validation_in_one_figure(m, tmp_path):
    """The picture shows the numbers of the validation, its verdict, and names of outputs where there is room."""
    rng = np.random.default_rng(0)
    runs, names = rng.normal(size=(60, m)), tuple(f"yield[{j}]" for j in range(m))
    validation = EmulatorValidation(names, runs + 0.2 * rng.normal(size=runs.shape), np.full((60, m), 0.2), runs)
    figure = plot_emulator(validation)
    predicted, residuals, r2, coverage = figure.axes
    np.testing.assert_allclose(r2.collections[0].get_offsets()[:, 0], validation.r2)
    assert [text.get_text() for text in r2.get_yticklabels()] == (list(names) if m <= 45 else [])
    assert predicted.collections[0].get_offsets().shape == (60 * m, 2)
    assert f"deviation {validation.residuals.std():.2f}" in residuals.get_title()
    levels, found = coverage.lines[m].get_data()
    np.testing.assert_allclose(found, [validation.coverage(level).mean() for level in levels])
    assert figure.get_suptitle().startswith(f"{validation.verdict.upper()}: 60 runs, {m} outputs")
    figure.savefig(tmp_path / "e.png")
    width = figure.get_size_inches()[0]
    box = figure._suptitle.get_window_extent().transformed(figure.dpi_scale_trans.inverted())
    assert box.x1 < width


def test_formulae_and_what_is_none_are_drawn(tmp_path):
    names = (r"$\langle p_T \rangle$", r"$v_2\{2\}$", "$x^$", "cost in $")
    runs = np.random.default_rng(0).normal(size=(60, 4))
    wrong = EmulatorValidation(
        names, runs + np.random.default_rng(1).normal(size=runs.shape), np.full((60, 4), 0.2), runs
    )
    assert wrong.verdict == "fail"
    plot_emulator(wrong).savefig(tmp_path / "e.png")


def test_only_a_validation_is_drawn():
    with pytest.raises(TypeError, match="expected an EmulatorValidation; got ndarray"):
        plot_emulator(np.ones(3))
