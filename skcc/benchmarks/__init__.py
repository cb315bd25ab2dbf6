"""Measurements of speed, memory and time to accuracy."""
