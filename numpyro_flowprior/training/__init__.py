"""From a chain to a FlowPrior: preparation of the samples, losses and the training loop."""
