"""The shipped camera detector: anchor-free, trained on simulated pictures."""
