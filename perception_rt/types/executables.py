"""The executables of the package; setup.py reads this file too, without importing the package."""

EXECUTABLES = (
    "camera_detector",
    "camera_classifier",
    "camera_segmenter",
    "lidar_detector",
    "fusion",
    "object_tracker",
    "vehicle_state",
    "sensor_health",
    "event_recorder",
    "drive_simulator",
    "bag_player",
    "video_player",
)

SOURCES = ("drive_simulator", "bag_player", "video_player")
"""Those that publish what the others take. A run ends with them; a replay leaves them out."""
NOT_REPLAYED = (*SOURCES, "event_recorder")
