"""Pictures: corner plots of chains, and a prior's quality report in one figure. Matplotlib is an extra."""
