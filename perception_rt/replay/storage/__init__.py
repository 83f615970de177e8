"""Files of a recording, read as far as they can be."""
