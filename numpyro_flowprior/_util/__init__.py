"""What knows nothing of statistics: checks, batches, arrays for JAX, progress, storage, numbers for JSON."""
