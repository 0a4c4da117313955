"""Pictures: contours hold the masses they claim, reports show what they found, and what cannot be drawn is refused."""

from __future__ import annotations

import subprocess
import sys

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.signal import find_peaks
from scipy.stats import beta, expon, norm, t, truncnorm, uniform
from toys import correlated_chain, mixture_prior

from numpyro_flowprior import (
    Chain,
    EmulatorValidation,
    Guards,
    ParameterSpace,
    UniformPrior,
    compare,
    plot_comparison,
    plot_corner,
    plot_emulator,
    plot_guards,
    plot_quality,
    plot_stages,
    quality_report,
)
from numpyro_flowprior.plots.canvas import offset_and_exponent, short_numbers
from numpyro_flowprior.plots.corner import CONTOUR_MASSES, _Drawn
from numpyro_flowprior.plots.held_out import block_of_rows, smoothest
from numpyro_flowprior.plots.smooth import smooth_joint, smooth_marginal
from numpyro_flowprior.stages.findings import Finding


def truncated_normal(rng, n):
    draws = rng.normal(0.3, 1.0, 12 * n)
    return draws[draws > 0][:n]


def plateau(rng, n):
    """Flat from a bound on, with a soft end."""
    draws = rng.uniform(-0.2, 0.8, 2 * n) + rng.normal(0.0, 0.04, 2 * n)
    return draws[draws > 0.0][:n]


def spike(rng, n):
    """A narrow peak and a far tail."""
    return np.where(rng.random(n) < 0.93, rng.normal(0.02, 0.003, n), 0.02 + rng.exponential(0.08, n))


MARGINALS = {  # draws, density, bounds, the integrated absolute error that is allowed with 5,000 draws, peaks
    "normal": (lambda rng, n: rng.normal(3.0, 0.1, n), norm(3.0, 0.1).pdf, (-np.inf, np.inf), 0.03, 1),
    "cut, declared": (truncated_normal, truncnorm(-0.3, np.inf, 0.3, 1.0).pdf, (0.0, np.inf), 0.03, 1),
    "cut, not declared": (truncated_normal, truncnorm(-0.3, np.inf, 0.3, 1.0).pdf, (-np.inf, np.inf), 0.03, 1),
    "uniform": (lambda rng, n: rng.uniform(size=n), uniform.pdf, (0.0, 1.0), 0.03, 2),
    "piled on a bound": (lambda rng, n: rng.beta(0.5, 2.0, n), beta(0.5, 2.0).pdf, (0.0, 1.0), 0.1, 1),
    "long tail": (lambda rng, n: rng.standard_t(3, n), t(3).pdf, (-np.inf, np.inf), 0.05, 1),
    "modes": (
        lambda rng, n: np.where(rng.random(n) < 0.3, rng.normal(-2, 0.1, n), rng.normal(2, 1, n)),
        lambda x: 0.3 * norm.pdf(x, -2, 0.1) + 0.7 * norm.pdf(x, 2, 1),
        (-np.inf, np.inf),
        0.06,
        2,
    ),
    "an epoch": (lambda rng, n: 2.4e6 + rng.normal(0, 1e-3, n), norm(2.4e6, 1e-3).pdf, (-np.inf, np.inf), 0.03, 1),
    "far modes": (
        lambda rng, n: np.where(rng.random(n) < 0.5, -500.0, 500.0) + rng.normal(size=n),
        lambda x: 0.5 * norm.pdf(x, -500.0) + 0.5 * norm.pdf(x, 500.0),
        (-np.inf, np.inf),
        0.5,
        2,
    ),
    "plateau": (
        plateau,
        lambda x: (norm.cdf((x + 0.2) / 0.04) - norm.cdf((x - 0.8) / 0.04)) / 0.8,
        (0.0, np.inf),
        0.05,
        3,
    ),
    "spike and tail": (
        spike,
        lambda x: 0.93 * norm.pdf(x, 0.02, 0.003) + 0.07 * expon.pdf(x, 0.02, 0.08),
        (-np.inf, np.inf),
        0.06,
        1,
    ),
}


@pytest.mark.parametrize("case", MARGINALS)
def test_a_smooth_density_is_the_exact_one(case):
    """The error is that of 5,000 draws; bounds, spikes, tails and far modes do not make it larger, nor wavy."""
    draw, exact, bounds, limit, most = MARGINALS[case]
    found, peaks = [], []
    for seed in range(6):
        x = draw(np.random.default_rng(seed), 5000)
        curve = smooth_marginal(x, np.full(5000, 2e-4), 5000.0, bounds)
        found.append(np.sum(np.abs(curve.density - exact(curve.x))) * (curve.x[1] - curve.x[0]))
        peaks.append(len(find_peaks([0.0, *(curve.density / curve.density.max()), 0.0], prominence=0.03)[0]))
        assert curve.cdf[-1] == 1.0
    assert np.mean(found) < limit
    assert np.mean(peaks) <= most


@pytest.mark.parametrize("n", [2, 5, 30])
def test_few_draws_have_a_density(n):
    for seed in range(5):
        x = np.random.default_rng(seed).normal(size=n)
        for bounds in [(-np.inf, np.inf), (-9.0, 9.0), (x.min(), np.inf), (x.min(), x.max())]:
            curve = smooth_marginal(x, np.full(n, 1 / n), float(n), bounds)
            assert np.isfinite(curve.density).all()
            np.testing.assert_allclose(curve.density.sum() * (curve.x[1] - curve.x[0]), 1.0)


def test_few_draws_of_a_normal_density_do_not_pile_up_at_its_ends():
    ends = []
    for seed in range(30):
        curve = smooth_marginal(np.random.default_rng(seed).normal(size=10), np.full(10, 0.1), 10.0)
        ends.append(max(curve.density[0], curve.density[-1]) > 0.5 * curve.density.max())
    assert np.mean(ends) < 0.15


@pytest.mark.parametrize(
    ("draw", "bounds"),
    [
        (lambda rng, n: rng.integers(0, 2, n), (-np.inf, np.inf)),
        (lambda rng, n: rng.poisson(0.3, n), (0.0, np.inf)),
        (lambda rng, n: np.clip(rng.normal(size=n), -1.0, 1.0), (-1.0, 1.0)),
        (lambda rng, n: rng.standard_cauchy(n), (-np.inf, np.inf)),
        (lambda rng, n: np.where(rng.random(n) < 0.01, -1000.0, 1000.0) + rng.normal(size=n), (-np.inf, np.inf)),
    ],
    ids=["binary", "counts", "clipped", "Cauchy", "a far mode"],
)
def test_mass_is_where_the_draws_are(draw, bounds):
    for seed in range(4):
        x = np.sort(draw(np.random.default_rng(seed), 5000).astype(float))
        shuffled = np.random.default_rng(seed).permutation(x)
        curve = smooth_marginal(shuffled, np.full(5000, 2e-4), 5000.0, bounds)
        below = np.searchsorted(x, curve.edges, side="right") / 5000
        assert np.abs(curve.cdf - below)[1:-1].max() < 0.05


def test_a_binary_parameter_is_drawn_at_its_values_in_pairs():
    rng = np.random.default_rng(0)
    k = rng.integers(0, 2, 5000).astype(float)
    rows, weights = np.column_stack([k, np.where(k > 0, 3.0, -3.0) + 0.3 * rng.normal(size=5000)]), np.full(5000, 2e-4)
    block = block_of_rows(rows)
    first, second = (
        smooth_marginal(x, weights, 5000.0, bounds, block)
        for x, bounds in zip(rows.T, [(0.0, 1.0), (-np.inf, np.inf)], strict=True)
    )
    joint = smooth_joint(first, second, weights, 5000.0)
    right, wrong = (
        joint.at(np.array([0.0, 1.0]), np.array([-3.0, 3.0])),
        joint.at(np.array([0.0, 1.0]), np.array([3.0, -3.0])),
    )
    assert right.min() > 10 * wrong.max()


def test_a_constant_has_contours_with_other_parameters():
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.normal(size=2000), np.ones(2000)])
    with pytest.warns(UserWarning, match="single value in every row"):
        chain = Chain(rows, ParameterSpace(["a", "b"]))
    with pytest.warns(UserWarning, match="single value in every row"):
        both = [axis for names in ("ab", "ba") for axis in plot_corner({"one": chain}, names=list(names)).axes]
    drawn = [axis for axis in both if axis.get_visible() and axis.collections and len(axis.lines) == 0]
    assert len(drawn) == 2


def test_rows_that_are_repeated_share_a_block_and_values_do_not():
    rng = np.random.default_rng(0)
    rows = rng.permutation(np.repeat(rng.normal(size=(500, 2)), 5, axis=0))
    block = block_of_rows(rows)
    for row in np.unique(rows, axis=0):
        assert len(np.unique(block[(rows == row).all(axis=1)])) == 1
    assert len(np.unique(block_of_rows(rng.integers(0, 2, (1000, 1)).astype(float)))) == 20


def test_the_smoothest_level_within_a_standard_error_is_taken():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(5, 20))
    noise -= noise.mean(axis=1, keepdims=True)
    worse = np.array([1.0, 0.1, 0.0, 0.5, 0.6])[:, None]  # per block; the standard error of its sum is about 6
    asked = []
    levels = (asked.append(j) or score for j, score in enumerate(noise - worse))
    assert smoothest(levels)[0] == 1
    assert len(asked) == 5
    exact = np.linspace(0.0, 1.0, 20) - worse  # without noise the best one is taken
    assert smoothest(exact)[0] == 2


def test_equal_and_neighbouring_rows_do_not_pass_for_structure():
    """Each of 800 draws five times, in the order of a chain and shuffled: as smooth as 800 draws."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=800), 5)
    for rows in (x, rng.permutation(x)):
        curve = smooth_marginal(rows, np.full(4000, 1 / 4000), 800.0)
        turns = np.diff(np.sign(np.diff(curve.density[curve.density > 0.1]))) != 0
        assert turns.sum() <= 3


def test_a_constant_and_a_single_draw_are_drawn(tmp_path):
    space = ParameterSpace(["a", "b"])
    rows = np.column_stack([np.full(50, 7.0), np.linspace(0, 1, 50)])
    with pytest.warns(UserWarning, match="single value in every row"):
        plot_corner({"constant": Chain(rows, space)}).savefig(tmp_path / "c.png")
    plot_corner({"one": Chain(rows[:1], space)}).savefig(tmp_path / "c.png")


def banana(rng, n):
    x = rng.normal(size=n)
    return np.column_stack([x, x**2 + 0.3 * rng.normal(size=n)])


def degenerate(rng, n):
    x = rng.uniform(size=n)
    return np.column_stack([x, 1.0 - x + 0.003 * rng.normal(size=n)])


PAIRS = {
    "normal": lambda rng, n: rng.multivariate_normal([1.0, -1.0], [[1.0, 0.8], [0.8, 1.0]], n),
    "banana": banana,
    "degenerate": degenerate,
    "corner": lambda rng, n: rng.beta(0.7, 2.0, (n, 2)),
    "modes": lambda rng, n: rng.normal(size=(n, 2)) * 0.2 + np.where(rng.random((n, 1)) < 0.4, -1.0, 1.0),
}


@pytest.mark.parametrize("case", PAIRS)
def test_contours_enclose_their_share_of_new_draws(case):
    """A region of 39, 86 or 99 % holds as many of the draws that the density was not made of, within 2 %."""
    np.testing.assert_allclose(CONTOUR_MASSES, 1 - np.exp(-0.5 * np.arange(1, 4) ** 2), atol=1e-4)
    weights, found = np.full(8000, 1 / 8000), []
    bounds = (0.0, 1.0) if case == "corner" else (-np.inf, np.inf)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        draws, new = PAIRS[case](rng, 8000), PAIRS[case](rng, 20_000)
        joint = smooth_joint(*(smooth_marginal(x, weights, 8000.0, bounds) for x in draws.T), weights, 8000.0)
        found.append([np.mean(joint.at(*new.T) > level) for level in joint.levels(CONTOUR_MASSES)])
    np.testing.assert_allclose(np.mean(found, axis=0), CONTOUR_MASSES, atol=0.02)


@pytest.mark.parametrize(
    ("draw", "exact", "bounds", "limit"),
    [
        (lambda rng, n: rng.uniform(size=(n, 2)), lambda x, y: np.ones(len(x)), (0.0, 1.0), 0.02),
        (lambda rng, n: np.abs(rng.normal(size=(n, 2))), lambda x, y: 4 * norm.pdf(x) * norm.pdf(y), (0, np.inf), 0.03),
        (degenerate, lambda x, y: norm.pdf(y, 1.0 - x, 0.003), (-np.inf, np.inf), 0.4),
    ],
    ids=["flat", "half normal", "ridge"],
)
def test_the_density_of_a_pair_is_the_exact_one(draw, exact, bounds, limit):
    """Mean |estimate / exact - 1| at new draws."""
    found, weights = [], np.full(5000, 2e-4)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        draws, new = draw(rng, 5000), draw(rng, 5000)
        joint = smooth_joint(*(smooth_marginal(x, weights, 5000.0, bounds) for x in draws.T), weights, 5000.0)
        found.append(np.mean(np.abs(joint.at(*new.T) / exact(*new.T) - 1.0)))
    assert np.mean(found) < limit


def test_contours_of_a_normal_density_are_its_ellipses():
    rng = np.random.default_rng(1)
    draws, weights = rng.normal(size=(5000, 2)), np.full(5000, 2e-4)
    joint = smooth_joint(*(smooth_marginal(x, weights, 5000.0) for x in draws.T), weights, 5000.0)
    grid = np.linspace(-4, 4, 161)
    density = joint.on_grid(grid, grid)
    radius = np.hypot(*np.meshgrid(grid, grid, indexing="ij"))
    for k, level in enumerate(joint.levels(CONTOUR_MASSES), start=1):
        np.testing.assert_allclose(np.sqrt(np.sum(density > level) * 0.05**2 / np.pi), k, rtol=0.05)
        assert density[radius < 0.8 * k].min() > level  # no islands, inside
        assert density[radius > 1.25 * k].max() < level  # and outside


def test_rows_are_left_out_evenly_and_those_without_weight_first():
    """The limit of 200,000 rows changes nothing in the picture of a chain far from zero."""
    rng = np.random.default_rng(0)
    rows, weights = rng.normal(100.0, 1.0, size=(200_001, 1)), np.ones(200_001)
    space = ParameterSpace(["a"])
    weights[::2] = 0.0
    for chain in (
        Chain(rows, space),
        Chain(np.repeat(rows, 2, axis=0)[:400_001], space, weights=np.tile([0.0, 1.0], 200_001)[:400_001]),
    ):
        drawn = _Drawn(chain)
        assert drawn.weights.sum() == pytest.approx(1.0)
        assert drawn.marginals["a"].mean == pytest.approx(100.0, abs=0.02)
        assert drawn.marginals["a"].deviation == pytest.approx(1.0, abs=0.02)


@pytest.mark.filterwarnings("ignore:.*single value in every row")
@pytest.mark.parametrize("values", [np.full(300, 3.3), 1e8 + 1.5e-8 * (np.arange(300) % 2), np.full(300, 1e20)])
def test_a_range_of_rounding_is_a_constant(values, tmp_path):
    chain = Chain(np.column_stack([values, np.linspace(0, 1, 300)]), ParameterSpace(["a", "b"]))
    plot_corner({"one": chain}).savefig(tmp_path / "c.png")


def test_a_plateau_has_no_contours():
    """Its density is the same everywhere; a line across it would be noise. A slope keeps its own."""
    rng = np.random.default_rng(0)
    space = ParameterSpace(["a", "b"], 0.0, 1.0)
    flat, sloped = rng.uniform(size=(5000, 2)), rng.beta(1.0, 3.0, size=(5000, 2))
    lines = [len(plot_corner({"one": Chain(rows, space)}).axes[2].collections) for rows in (flat, sloped)]
    assert lines[0] <= 2  # the outermost, filled, at the most
    assert lines[1] == 4  # three that are filled, and the lines of all


def test_weights_are_those_of_the_draws():
    """Uniform draws with normal weights are a normal density."""
    x = np.random.default_rng(0).uniform(-5, 5, (20_000, 2))
    weights = np.exp(-0.5 * np.sum(x**2, axis=1))
    weights /= weights.sum()
    size = 1.0 / np.sum(weights**2)
    first, second = (smooth_marginal(column, weights, size) for column in x.T)
    assert np.sum(np.abs(first.density - norm.pdf(first.x))) * (first.x[1] - first.x[0]) < 0.1
    joint = smooth_joint(first, second, weights, size)
    assert joint.on_grid(np.zeros(1), np.zeros(1))[0, 0] == pytest.approx(1 / (2 * np.pi), rel=0.1)


def test_numbers_on_axes_are_short():
    assert offset_and_exponent(2459000.123, 2459000.131) == (pytest.approx(2459000.13, abs=0.01), 0)
    assert offset_and_exponent(2459000.0, 2459000.0001)[1] == -5
    assert offset_and_exponent(0.0, 1.0) == (0.0, 0)
    assert offset_and_exponent(-3e-9, 2e-9) == (0.0, -9)
    assert offset_and_exponent(5.0, 5.0)[1] == 0
    axis = Figure().subplots().xaxis
    assert short_numbers(axis, -794.0, -793.9, "t", "day^0.5") == "t $+$ 794 [day$^{0.5}$]"


def test_a_corner_is_drawn_into_axes_with_the_prior_and_the_truth(tmp_path):
    chain = correlated_chain(1000)
    figure = Figure()
    axes = figure.subplots(2, 2)
    assert plot_corner({"one": chain}, prior=UniformPrior(chain.space), truth={"a": 0.5}, axes=axes) is figure
    assert len(axes[1, 1].lines) == 2  # the chain and the prior
    assert len(axes[0, 0].lines) == 3  # and the truth
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "prior"]
    plot_corner({"one": chain}, prior=chain.select(["b"]), axes=axes)  # a prior of some of the parameters
    figure.savefig(tmp_path / "c.png")
    with pytest.raises(ValueError, match="plot_corner: prior: expected some of the parameters 'a', 'b'; got 'q'"):
        plot_corner({"one": chain}, prior=UniformPrior(ParameterSpace(["q"], 0.0, 1.0)))
    with pytest.raises(ValueError, match=r"axes: expected 4 \(2 x 2, one for each pair of parameters\); got 2"):
        plot_corner({"one": chain}, axes=axes[0])


@pytest.mark.parametrize("dim", [2, 3])
def test_the_legend_leaves_the_panels_free(dim):
    rng = np.random.default_rng(0)
    space = ParameterSpace(list("abc")[:dim])
    names = ["joint", "nearby", "nearby, then distant"]
    figure = plot_corner({name: Chain(rng.normal(size=(500, dim)), space) for name in names}, title="both")
    legend = figure.legends[0].get_window_extent()
    assert len(figure.legends) == 1
    for axis in figure.axes:
        assert not (axis.get_visible() and legend.overlaps(axis.get_window_extent()))


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
    assert figure.get_suptitle().startswith("t\n")
    assert plot_comparison(found, legends=("A", "B")).get_suptitle().startswith("B, compared with A\n")
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


def test_every_plot_draws_into_the_axes_that_it_is_given():
    """And leaves the figure's title to its owner; another number of axes is refused by name."""
    prior = mixture_prior(2, [(1.0, 0.0, 1.0)])
    rows = np.random.default_rng(0).normal(size=(1000, 2))
    chain = Chain(rows, prior.space)
    validation = EmulatorValidation(("y",), rows[:60, :1], np.full((60, 1), 0.2), rows[:60, :1] + 0.1)
    comparison = compare(chain, chain, repeats=1, modes={}, classify=False)
    stages = {"one": chain, "two": chain}
    for plot, subject, count in (
        (plot_quality, quality_report(jax.random.key(0), prior, chain), 6),
        (plot_emulator, validation, 4),
        (plot_comparison, comparison, 3),
        (plot_stages, stages, 2),
        (plot_guards, Guards((), {}), 4),
    ):
        figure = Figure()
        axes = figure.subplots(1, count)
        assert plot(subject, axes=axes) is figure
        assert figure.get_suptitle() == ""
        with pytest.raises(ValueError, match=f"{plot.__name__}: axes: expected {count} .*; got 1. Leave it out"):
            plot(subject, axes=axes[:1])


def test_stages_are_drawn_as_intervals_that_tighten(tmp_path):
    """Points at medians, lines over 68 and 95 %; widths relative to the first stage that has the parameter."""
    rng = np.random.default_rng(0)
    space = ParameterSpace(["a", "t"], units=["GeV", ""], labels=["$a$", "t"])
    first = Chain(rng.normal(0.0, 1.0, (4000, 1)), space.select(["a"]))
    second = Chain(rng.normal([1.0, 2.4e6], [0.5, 1e-3], (4000, 2)), space)
    figure = plot_stages({"one": first, "two": second}, truth={"a": 0.0})
    a, epoch = figure.axes
    low, high = a.lines[4].get_xdata()  # two intervals and a median of the first stage, then the second's 68 %
    np.testing.assert_allclose([low, high], np.quantile(second.samples[:, 0], [0.16, 0.84]), rtol=1e-3)
    assert float(a.texts[0].get_text().removeprefix("\N{MULTIPLICATION SIGN} ")) == pytest.approx(0.5, rel=0.06)
    assert a.get_xlabel() == "$a$ [GeV]"
    assert epoch.get_xlabel().startswith("t $-$ 2400000")
    assert [text.get_text() for text in epoch.texts] == ["not a parameter"]
    figure.savefig(tmp_path / "s.png")
    with pytest.raises(ValueError, match="names: expected some of 'a', 't'; got 'z'"):
        plot_stages({"one": first, "two": second}, names=["z"])
    with pytest.raises(ValueError, match="at least one stage"):
        plot_stages({})


def test_guards_are_drawn_with_their_limits_and_what_is_not_known_says_so(tmp_path):
    numbers = {
        "prior_error": {"loss": 0.2, "loss_error": 0.01, "pareto_k": 0.3},
        "rows_rested_on": 40.0,
        "rows_rested_on_error": 10.0,
        "tension": {"shift": {"a": 2.0, "b": -0.1}, "pull": {"a": 4.5, "b": None}},
        "prior_predictive": {"observed": -12.0, "mean": -3.0, "std": 1.0, "p_value": 1e-4},
    }
    guards = Guards((Finding("KL", "fail", "0.2 nats"), Finding("rows", "info", "40")), numbers)
    figure = plot_guards(guards, title="heavy")
    loss, rows, shifts, data = figure.axes
    assert figure.get_suptitle() == "heavy: FAIL\nfail: KL: 0.2 nats"
    assert [text.get_text().strip() for text in loss.texts] == ["warn", "fail"]
    assert float(rows.lines[0].get_xdata()[0]) == 40.0
    assert [text.get_text() for text in shifts.texts] == ["pull +4.5"]
    assert data.lines[0].get_xdata()[0] == -12.0
    figure.savefig(tmp_path / "g.png")
    unknown = plot_guards(
        Guards((), {"prior_error": None, "prior_predictive": {**numbers["prior_predictive"], "mean": None}})
    )
    assert [axis.texts[0].get_text() for axis in unknown.axes] == ["not known"] * 4
    far = Guards((), {"prior_error": {"loss": 3.0, "loss_error": None, "pareto_k": None}})  # infinite, from a file
    assert plot_guards(far).axes[0].texts[0].get_text() == "not known"
    with pytest.raises(TypeError, match=r"expected the Guards of one stage; got dict. Pass analysis.guards\[name\]"):
        plot_guards({})


def test_notebooks_show_figures_without_pyplot():
    code = """
import sys
import numpy as np
from IPython.core.formatters import DisplayFormatter
from numpyro_flowprior import Chain, ParameterSpace, plot_stages
figure = plot_stages({"one": Chain(np.random.default_rng(0).normal(size=(50, 1)), ParameterSpace(["a"]))})
data, _ = DisplayFormatter().format(figure)
assert data["image/png"].startswith(bytes([137]) + b"PNG"), data
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
