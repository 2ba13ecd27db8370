"""The parity harness: what clients see, compared with what they saw.

`golden/` holds transcripts of the real Codex CLI behind the real service, one file per scenario. `predecessor.json`
holds what the Node predecessor answered. `python -m tests.parity` compares both with what is answered now.
"""
