"""Bundles: one TorchScript file that carries preprocessing, network, decoding and NMS."""
