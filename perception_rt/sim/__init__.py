"""A small synthetic drive with ground truth."""
