"""What is kept of /v1/responses: a small protocol, and stores that speak it. Nothing here knows HTTP."""
