"""Readers and writers of chains in the formats of files and of other packages."""
