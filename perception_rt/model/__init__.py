"""Bundles: one file that carries a network with its preprocessing, decoding and NMS."""
