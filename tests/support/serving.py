"""The service as a process of its own, for clients that block, and for those in another language."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tomli_w
from multidict import CIMultiDict
from prometheus_client.parser import text_string_to_metric_families

from loadtest.fake_app_server import write_launcher
from tests.support.services import AUTHORIZED, JSON_BODY, KEY, WAIT_S, Answer, Json, body, key

ENVIRON = {"PATH": "/usr/bin:/bin"}
MODEL = "codex-5"
RARELY: Json = {"max_turns": 10**9}
"""However long a test is, its workers are those that it began with."""


class Served(NamedTuple):
    """A service that answers at `url`."""

    url: str

    @property
    def base_url(self) -> str:
        """What an SDK wants to be told."""
        return f"{self.url}/v1"

    def call(self, method: str, path: str, data: bytes | None = None, **headers: str) -> Answer:
        """One request on a connection of its own, its answer read to the end."""
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=WAIT_S)
        with closing(connection):
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            return Answer(response.status, CIMultiDict(response.getheaders()), response.read())

    def get(self, path: str) -> Answer:
        """A GET without a key."""
        return self.call("GET", path)

    def chat(self, prompt: str = "Hello.", *, headers: Mapping[str, str] | None = None, **fields: Any) -> Answer:
        """A chat completion with the key."""
        return self.post(json.dumps(body(prompt, **fields)).encode(), **(headers or {}))

    def post(self, data: bytes, **headers: str) -> Answer:
        """Some body to the chat completions, with the key."""
        return self.call("POST", "/v1/chat/completions", data, **AUTHORIZED, **JSON_BODY, **headers)

    def metric(self, name: str) -> float:
        """A metric's sum over all its labels."""
        families = list(text_string_to_metric_families(self.get("/metrics").raw.decode()))
        wanted = f"codex_completions_{name}"
        return sum(sample.value for family in families for sample in family.samples if sample.name == wanted)

    @property
    def is_at_rest(self) -> bool:
        """Nothing waits or runs, and every seat is free."""
        busy = self.metric("jobs_waiting") + self.metric("jobs_running")
        return busy == 0 and self.metric("seats_free") == self.metric("seats") > 0

    def until_at_rest(self) -> None:
        """Wait until nothing of any request is left; by then no exception of our own was caught."""
        wait_until(lambda: self.is_at_rest)
        assert self.metric("bugs_total") == 0


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until `condition()` holds, for `WAIT_S` at most."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@contextmanager
def child(*argv: str, env: dict[str, str], stderr: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """A Python module as a child process, which is gone afterwards."""
    with subprocess.Popen(
        [sys.executable, "-m", *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=env,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            assert process.wait(WAIT_S) in (0, -15)


@contextmanager
def serving(folder: Path, profiles: dict[str, Json], **tables: Any) -> Iterator[Served]:
    """A service with these profiles; it takes `KEY`. `tables` are more of its configuration."""
    config = folder / "service.toml"
    described = key("tests", KEY).model_dump(include={"name", "sha256"})
    top = {"state_dir": str(folder / "state"), "server": {"port": 0}, "keys": [described], "profiles": profiles}
    config.write_text(tomli_w.dumps(top | tables))
    log = folder / "log"
    environ = ENVIRON | {"HOME": str(folder)}
    with (
        log.open("w") as errors,
        child("service", "--config", str(config), "serve", env=environ, stderr=errors.fileno()) as process,
    ):
        wait_until(lambda: process.poll() is not None or '"service.started"' in log.read_text())
        assert process.poll() is None, log.read_text()
        yield Served(re.findall(r'"url":"([^"]+)"', log.read_text())[0])


@contextmanager
def serving_fakes(folder: Path, **tables: Any) -> Iterator[Served]:
    """A service on scripted workers.

    The model `narrow` has a single seat and room for one who waits, `short` takes hardly any prompt.
    """
    worker: Json = {"codex_bin": str(write_launcher(folder / "codex")), "anonymous": True, "workers": 1}
    worker |= {"probation_s": 0, "retire": RARELY}
    profiles = {
        "default": worker | {"workers": 2, "slots": 8, "queue_max": 128},
        "narrow": worker | {"slots": 1, "queue_max": 1},
    }
    models: Json = {MODEL: {}, "narrow": {"profile": "narrow"}, "short": {"max_prompt_chars": 1}}
    with serving(folder, profiles, models=models, **tables) as served:
        yield served


@contextmanager
def serving_cli(folder: Path) -> Iterator[Served]:
    """A service on the real CLI, whose model is a stand-in."""
    with child("loadtest.model_standin", "--exit-with-stdin", env=ENVIRON | {"HOME": str(folder)}) as model:
        assert model.stdout is not None
        provider = model.stdout.readline().split()[-1]
        worker: Json = {"base_url": provider, "anonymous": True, "workers": 2, "retire": RARELY}
        with serving(folder, {"default": worker}) as served:
            yield served


# --- for the conftest.py of a folder of tests --------------------------------------------------------------------


@pytest.fixture(scope="package")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_fakes(tmp_path_factory.mktemp("fakes")) as served:
        yield served


@pytest.fixture(scope="package")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_cli(tmp_path_factory.mktemp("cli")) as served:
        yield served
