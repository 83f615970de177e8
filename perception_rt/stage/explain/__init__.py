"""Explain which pixels or points caused a detection: heat maps, and a check of them."""
