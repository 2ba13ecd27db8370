"""What operators see and do: a JSON API and a page, on an address and with keys of their own."""
