"""Readers of a user's data set: COCO, KITTI, YOLO, or a folder for each class."""
