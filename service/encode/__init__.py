"""Answers as bytes: streams and whole objects."""
