"""What a NumPyro model samples: its sites, their coordinates and dimensions, and their latent spaces."""
