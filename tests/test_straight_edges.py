"""Constraints between parameters that show in the rows, and priors that do not know them."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from numpyro_flowprior import Chain, FlowConfig, ParameterSpace, QualityReport, TrainConfig, fit_flow
from numpyro_flowprior.diagnostics.straight_edges import StraightEdge, straight_edges

NAMES = ("a", "b")
WIDE, MANY = 20_000, 4000


def triangle(generator, n):
    return np.sort(generator.uniform(size=(n, 2)), axis=1)


def half_plane(generator, n):
    rows = generator.normal(size=(4 * n, 2))
    return rows[rows @ [0.6, 0.8] < 0.5][:n]


def strip(generator, n):
    x = generator.normal(size=n)
    return np.column_stack([x, x + generator.uniform(-0.5, 0.5, n)])


def simplex(generator, n):
    return generator.dirichlet([1.0, 1.0, 1.0], n)[:, :2]


def correlated(generator, n):
    x, z = generator.normal(size=(2, n))
    return np.column_stack([x, 0.999 * x + 0.04 * z])


def in_a_box(generator, n):
    x = generator.uniform(size=n)
    return np.column_stack([x, 5.0 * x + 0.2 * generator.normal(size=n)])


def heavy(generator, n):
    return generator.standard_t(3.0, size=(n, 2))


def rounded(generator, n):
    return np.round(generator.normal(size=(n, 2)), 1)


def gamma(generator, n):
    return generator.gamma(2.0, size=(n, 2))


def ring(generator, n):
    angle, radius = generator.uniform(0.0, 2.0 * np.pi, n), 1.0 + 0.05 * generator.normal(size=n)
    return radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])


def modes(generator, n):
    return 0.3 * generator.normal(size=(n, 2)) + generator.choice([-2.0, 2.0], size=(n, 1))


def corner(generator, n):
    return generator.dirichlet([1.0] * 4, n)[:, :2]


EDGED = {triangle: (-1.0, 0.0), half_plane: (4 / 3, 0.5 / 0.6), simplex: (1.0, 1.0)}  # a + slope b < bound
SMOOTH = (correlated, in_a_box, heavy, rounded, gamma, ring, modes, corner)


@pytest.mark.parametrize("maker", [*EDGED, strip, *SMOOTH])
def test_draws_of_the_rows_own_density_cross_no_edge(maker):
    generator = np.random.default_rng(0)
    alarms = sum(bool(straight_edges(NAMES, maker(generator, MANY), maker(generator, WIDE))) for _ in range(20))
    assert alarms == 0


@pytest.mark.parametrize("maker", EDGED)
def test_a_prior_that_crosses_is_told_where(maker):
    generator = np.random.default_rng(1)
    slope, bound = EDGED[maker]
    for _ in range(10):
        draws = maker(generator, WIDE)
        draws = draws + 0.05 * draws.std(axis=0) * generator.normal(size=draws.shape)
        edges = {edge.names: edge for edge in straight_edges(NAMES, maker(generator, MANY), draws)}
        edge = edges[NAMES]
        sign = edge.coefficients[0]
        assert sign * edge.coefficients[1] == pytest.approx(slope, abs=0.03)
        assert sign * edge.bound == pytest.approx(bound, abs=0.03)
        assert edge.beyond == pytest.approx(np.mean(draws @ [1.0, slope] > bound), rel=0.3)


@pytest.mark.parametrize(("location", "width"), [(1187008882.43, 1e-3), (0.0, 1e52), (1e-6, 1e-9)])
def test_the_edge_that_is_told_is_one_of_the_rows_whatever_their_units(location, width):
    generator = np.random.default_rng(6)
    rows, draws = (location + width * np.sort(generator.normal(size=(n, 2)), axis=1) for n in (MANY, WIDE))
    draws += 0.05 * width * generator.normal(size=draws.shape)
    (edge,) = (edge for edge in straight_edges(NAMES, rows, draws) if edge.names == NAMES)
    excess = rows @ edge.coefficients - edge.bound
    assert -0.05 * width < excess.max() < 0.005 * width
    assert np.mean(draws @ edge.coefficients > edge.bound) == pytest.approx(edge.beyond, rel=0.1)


def test_a_bound_of_one_parameter_that_nobody_declared():
    generator = np.random.default_rng(2)
    draws = generator.uniform(-0.03, 1.0, size=(WIDE, 2))
    (first, second) = straight_edges(NAMES, generator.uniform(size=(MANY, 2)), draws)
    assert {first.names, second.names} == {("a",), ("b",)}
    assert str(first).split(" < ")[0] in NAMES
    assert float(str(first).split(" < ")[1]) == pytest.approx(0.0, abs=0.002)


@pytest.mark.parametrize("maker", [maker for maker in SMOOTH if maker not in (in_a_box, corner)])  # these end at bounds
def test_a_prior_a_little_too_wide_for_a_smooth_density_crosses_no_edge(maker):
    """What a smooth tail is too wide by is for other tests to tell."""
    generator = np.random.default_rng(3)
    for _ in range(10):
        assert straight_edges(NAMES, maker(generator, MANY), 1.1 * maker(generator, WIDE)) == ()


def test_of_few_or_degenerate_rows_nothing_is_said():
    generator = np.random.default_rng(4)
    assert straight_edges(NAMES, triangle(generator, 500), generator.normal(size=(WIDE, 2))) == ()
    line = np.repeat(generator.normal(size=(MANY, 1)), 2, axis=1)
    assert straight_edges(NAMES, line, line[::-1] * 1.01) == ()
    constant = np.column_stack([line[:, 0], np.ones(MANY)])
    assert straight_edges(NAMES, constant, constant) == ()


def test_an_edge_reads_as_an_inequality():
    assert str(StraightEdge(NAMES, (-1.0, 0.9974), 0.494, 0.02)) == "a - 0.9974 b < -0.494"
    assert str(StraightEdge(("m1", "m2"), (1.0, 1.0), 0.0, 0.02)) == "m1 + m2 > 0"
    assert str(StraightEdge(("a",), (-1.0,), -0.0, 0.02)) == "a < 0"


def test_the_report_of_rows_in_a_triangle_warns_and_advises():
    rows = triangle(np.random.default_rng(5), 6000)
    config, train = FlowConfig(layers=2, hidden=(16,)), TrainConfig(max_steps=400)
    space = ParameterSpace(["light", "heavy"], 0.0, 1.0)
    report = fit_flow(jax.random.key(0), Chain(rows, space), config, train, progress=False).report
    assert report.verdict != "pass"
    assert report.edges[0].names == ("light", "heavy")
    assert any("for x < y: x and y - x" in reason for reason in report.reasons)
    assert "heavy" in report.statements["edges"]
    back = QualityReport.from_json(report.to_json())
    assert back.edges == report.edges
    record = report.to_json()
    del record["edges"]  # as in records of earlier versions
    assert QualityReport.from_json(record).edges == ()

    ratio = np.column_stack([rows[:, 0] / rows[:, 1], rows[:, 1]])
    advised = Chain(ratio, ParameterSpace(["ratio", "heavy"], 0.0, 1.0))
    assert fit_flow(jax.random.key(0), advised, config, train, progress=False).report.edges == ()
