"""Bridge sampling: the ratio of two normalising constants from draws of both densities.

With l = p~ / q, the unnormalised posterior over the normalised flow, the optimal bridge of Meng and Wong (1996) is the
root in log Z of

    mean over draws of q  sigmoid(log l - log Z + log s1/s2) / s1  =  mean over rows of p  sigmoid(log Z - ...) / s2,

with s1 and s2 the shares of the rows and draws. One side falls and the other rises in log Z, so there is exactly one
root. Every other choice of s1 in (0, 1) gives a consistent estimate too, but a noisier one. The functions that are
averaged are bounded, so that their errors are reliable even if the flow has thinner tails than the posterior.

Sources: X.-L. Meng, W. H. Wong, Statistica Sinica 6 (1996) 831, eq. (4.1); the error: S. Fruehwirth-Schnatter,
Econometrics Journal 7 (2004) 143; here with the dependence of the rows from the chain, in crossed.py.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_expit, logsumexp, softmax

from .._util.checks import FloatArray
from .crossed import Estimate

_BEYOND = 50.0  # nats beyond the ratios at which the root is bracketed: there, one side of the equation is negligible


def bridge(of_rows: FloatArray, probabilities: FloatArray, of_draws: FloatArray, share: float) -> Estimate:
    """Returns the log evidence by bridge sampling.

    Args:
        of_rows: (n,) log p~ - log q at the rows of the chain.
        probabilities: (n,) weights of the rows, which sum to one; zero for those that trained the flow.
        of_draws: (m,) log p~ - log q at draws of q; -inf where p~ is zero, but not at all of them.
        share: s1, the share of the rows among rows and draws together, in (0, 1). The error is smallest if it counts
            effective rows.
    """
    odds = np.log(share) - np.log1p(-share)
    rows, draws = of_rows + odds, of_draws + odds
    possible = np.concatenate([rows[probabilities > 0.0], draws[np.isfinite(draws)]])

    def excess(log_z: float) -> float:
        high = logsumexp(log_expit(draws - log_z)) - np.log(len(draws) * share)
        return float(high - logsumexp(log_expit(log_z - rows), b=probabilities / (1.0 - share)))

    log_z = float(brentq(excess, possible.min() - _BEYOND, possible.max() + _BEYOND, xtol=1e-10))
    low = log_expit(log_z - rows)
    relative = np.exp(low - logsumexp(low, b=probabilities))
    return Estimate(log_z, probabilities, 1.0 - relative, softmax(log_expit(draws - log_z)) - 1.0 / len(draws))


def overlap(of_draws: FloatArray, log_z: float, share: float) -> float:
    """Returns the integral of p q / (s1 p + s2 q), from draws of q: 1 if q is the posterior, 0 if they are disjoint."""
    odds = np.log(share) - np.log1p(-share)
    return float(np.exp(log_expit(of_draws + odds - log_z)).mean() / share)
