"""The executables of the package; setup.py reads this file too, without importing the package."""

EXECUTABLES = (
    "camera_detector",
    "lidar_detector",
    "fusion",
    "object_tracker",
    "vehicle_state",
    "drive_simulator",
    "bag_player",
    "video_player",
)
