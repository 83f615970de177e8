"""What each node does, without ROS: the car's nodes and the replay run this very code."""
