"""Fusion of camera and lidar detections."""
