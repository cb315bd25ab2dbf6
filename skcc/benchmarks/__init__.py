"""Measurements of speed, memory and time to accuracy: ``skcc bench``."""
