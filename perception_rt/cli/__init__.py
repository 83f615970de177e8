"""The commands of perception-rt."""
