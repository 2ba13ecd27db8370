"""The shapes that clients send and get: validation and errors."""
