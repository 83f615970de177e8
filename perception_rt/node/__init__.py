"""The ROS shells: the only room that imports rclpy or message packages.

Importing it limits malloc to one arena, where the C library has mallopt: before rclpy starts threads, as an
arena stays. Engines load on their own threads, and what they free stays resident in all arenas but the main.
"""

import ctypes

if (_mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
    _mallopt(-8, 1)  # M_ARENA_MAX
