"""The flow: Distrax bijectors and distributions, built from plain arrays inside traced code, and the same in NumPy."""
