"""Bags, metrics and reports."""
