"""Monitor the health of sensors from the messages that nodes receive anyway."""
