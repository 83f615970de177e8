"""Colours of classes and tracks, the same in pictures and in markers."""

PALETTE = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
"""RGB, 0 to 255; distinguishable by most colour-blind people (Okabe and Ito, 2008)."""
