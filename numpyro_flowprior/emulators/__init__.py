"""Gaussian-process emulators in principal components: from a design of expensive model runs to a likelihood."""
