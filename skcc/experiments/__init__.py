"""Runs on data sets with known classes: recipes, sweeps, studies and their records."""
