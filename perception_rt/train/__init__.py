"""Recipes that train the shipped bundles on the simulator."""
