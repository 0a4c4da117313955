"""Pictures: corner plots of chains, comparisons and quality reports in one figure each. Matplotlib is an extra."""
