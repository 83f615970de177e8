"""Which pixels or points made a detection: heat maps, and a check that they matter."""
