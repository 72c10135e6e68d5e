"""Recipes: each a small file over the shared steps, with its settings and one function from a run to a checkpoint."""
