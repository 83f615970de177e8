"""Where objects will be: motion modes, and the filter that weighs them."""
