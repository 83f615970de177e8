"""The ROS nodes; no other folder imports rclpy or message packages.

Importing it limits malloc to one arena, if the C library has mallopt. This must happen before rclpy starts
threads. Otherwise memory freed by the engines' threads would stay resident in their arenas.
"""

import ctypes

if (_mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
    _mallopt(-8, 1)  # M_ARENA_MAX
