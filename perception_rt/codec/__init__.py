"""Messages to values and back, by attribute or from serialized bytes; knows no ROS."""
