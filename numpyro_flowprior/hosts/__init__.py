"""The learned prior in other frameworks: bilby, Cobaya, PyMC, PyTorch and Stan. Nothing here needs JAX."""
