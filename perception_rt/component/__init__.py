"""The logic of each node, without ROS: the ROS nodes and the replay run the same code."""
