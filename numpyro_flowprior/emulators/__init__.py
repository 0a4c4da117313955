"""From a design of expensive model runs to a likelihood: Gaussian-process emulators in principal components."""
