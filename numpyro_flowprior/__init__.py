"""The posterior of one analysis as the prior of the next."""
