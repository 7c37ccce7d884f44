"""Functions as JAX traced them: walked through, run in float64, and where their lines were written."""
