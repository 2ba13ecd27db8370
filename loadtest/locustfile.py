"""Load with locust: `locust -f loadtest/locustfile.py --headless -u 8 -r 4 -t 30s -H http://127.0.0.1:11435`.

The key comes from the variable CODEX_COMPLETIONS_API_KEY. Needs the extra `loadtest`. For your own machines only.
"""

from __future__ import annotations

import os

from locust import HttpUser, constant_pacing, task

MODEL = "codex-5"
QUESTION = "Say hello in one sentence."


class Partner(HttpUser):
    """A client that asks once a second, three times of four for a stream."""

    wait_time = constant_pacing(1)

    def on_start(self) -> None:
        """Every request carries the key."""
        self.client.headers["Authorization"] = f"Bearer {os.environ['CODEX_COMPLETIONS_API_KEY']}"

    @task(3)
    def streamed(self) -> None:
        """A streamed answer; one without its proper end counts as failed."""
        body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": QUESTION}]}
        with self.client.post("/v1/chat/completions", json=body, name="stream", catch_response=True) as response:
            if not response.text.endswith("data: [DONE]\n\n"):
                response.failure(f"{response.status_code}: {response.text[-200:]}")

    @task(1)
    def whole(self) -> None:
        """A whole answer."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}]}
        self.client.post("/v1/chat/completions", json=body, name="whole")
