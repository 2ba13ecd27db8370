"""The app-server's wire protocol without I/O: bytes in, messages out; messages in, bytes out."""
