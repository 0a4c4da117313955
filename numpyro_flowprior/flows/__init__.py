"""The transport: Distrax bijectors and distributions, built from plain arrays inside traced code; the same in NumPy."""
