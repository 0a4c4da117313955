"""Is it right: divergences with their noise floors, reports on a prior, comparisons of chains."""
