"""Tests of priors and chains: divergences with noise floors, quality reports and comparisons of chains."""
