"""Calls of functions, structured or written into the text: assembled, and written as text. No I/O."""
