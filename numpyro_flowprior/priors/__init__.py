"""Learned densities as NumPyro priors, their files, and the priors derived from them."""
