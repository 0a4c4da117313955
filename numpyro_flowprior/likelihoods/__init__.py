"""Likelihoods that are not written in JAX: a Python function over an executor, and a log of its calls."""
