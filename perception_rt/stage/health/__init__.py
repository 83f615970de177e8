"""Health of the sensors, judged from the messages that pass anyway."""
