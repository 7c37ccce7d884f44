"""Backpropagation by hand in pure jax.numpy, and the suite that proves it right."""
