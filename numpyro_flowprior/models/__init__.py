"""The sites that a NumPyro model samples, their coordinates and dimensions, and their latent spaces."""
