"""The methods, one family of papers per file: objectives, then estimators."""
