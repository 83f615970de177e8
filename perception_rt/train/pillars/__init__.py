"""The shipped lidar detector: pillars, trained on simulated clouds."""
