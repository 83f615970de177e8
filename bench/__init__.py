"""Measurements of speed (`make bench`) and of scores (`make accuracy`)."""
