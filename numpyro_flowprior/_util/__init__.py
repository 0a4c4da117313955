"""Helpers without any statistics: checks, batches, arrays for JAX, progress, storage, numbers for JSON."""
