"""The frames of single requests, in files, for a day at most: off unless somebody looks for something."""
