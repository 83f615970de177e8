"""Running the components of a graph over a recording, in virtual time and in order."""
