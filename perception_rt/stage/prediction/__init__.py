"""Predict the motion of objects: motion modes, and the filter that weights them."""
