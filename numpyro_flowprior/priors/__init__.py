"""Learned densities as NumPyro priors, their files, and all that is made of them."""
