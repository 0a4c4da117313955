"""From a NumPyro model to a Chain: the log-density bridge and the samplers behind it."""
