"""Supervised `codex app-server` processes: slots, workers, leases, turns. Knows nothing of queues or HTTP."""
