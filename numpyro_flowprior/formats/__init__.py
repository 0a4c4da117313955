"""Chains in the formats of files and of other packages: readers and writers."""
