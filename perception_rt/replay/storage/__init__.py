"""Read the files of a recording, intact or damaged."""
