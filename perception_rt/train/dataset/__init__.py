"""Data sets of one's own: COCO, KITTI, YOLO, or a folder for each class."""
