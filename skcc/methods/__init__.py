"""The methods, one file per family: objective, then estimator."""
