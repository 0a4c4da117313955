"""From a NumPyro model to a Chain: the log density of the model, and the samplers that use it."""
