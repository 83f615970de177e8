"""Training: the recipes of the shipped bundles, and training on a user's data set."""
