"""Camera and lidar perception for ROS 2 with PyTorch: from message to detection, on time."""

__version__ = "0.3.0"
