"""Run the components of a graph over a recording in virtual time."""
