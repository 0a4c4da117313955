"""Sequential analysis: the posterior of each stage is the prior of the next, and each step is checked."""
