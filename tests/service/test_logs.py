"""Lines are written whole and in order or counted, whoever reads them; and what repeats itself is told once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import structlog

from service.logs import LAST_WORDS_S, LineWriter, Repeats
from tests.service.conftest import Log

MARK = "zanzibar"


class Pipe:
    """A writer into a pipe, and what was read from its other end."""

    def __init__(self, room_bytes: int) -> None:
        self._read_fd, self._write_fd = os.pipe()
        self.writer = LineWriter(self._write_fd, room_bytes)
        os.set_blocking(self._read_fd, False)

    def read(self, size: int = 1024 * 1024) -> bytes:
        return os.read(self._read_fd, size)

    def close_reader(self) -> None:
        os.close(self._read_fd)
        self._read_fd = -1

    def close(self) -> None:
        for fd in (self._read_fd, self._write_fd):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe(room_bytes=100_000)
    yield pipe
    pipe.close()


# --- where lines go ----------------------------------------------------------------------------------------------


def test_a_line_is_written_at_once(pipe: Pipe) -> None:
    pipe.writer.info(b"one")
    pipe.writer.error(b"two")
    assert pipe.read() == b"one\ntwo\n"


def test_a_reader_that_has_stopped_makes_nobody_wait_and_what_has_no_room_is_counted(pipe: Pipe) -> None:
    lines = [f"{number:09}".encode() * 100 for number in range(1000)]
    for line in lines:
        pipe.writer.msg(line)
    assert pipe.writer.dropped > 0
    read = b""
    for _ in range(100):
        try:
            read += pipe.read()
        except BlockingIOError:
            break
        pipe.writer.flush()
    kept = read.splitlines()
    assert kept == lines[: len(kept)], "whole, in order, and the last ones were dropped"
    assert len(kept) == len(lines) - pipe.writer.dropped
    assert len(read) > 100_000


def test_a_line_that_is_longer_than_a_pipe_is_written_in_parts(pipe: Pipe) -> None:
    line = b"0123456789" * 9_000
    pipe.writer.msg(line)
    pipe.writer.msg(b"next")
    read = pipe.read()
    assert 0 < len(read) < len(line)
    pipe.writer.flush()
    assert read + pipe.read() == line + b"\nnext\n"


def test_nobody_there_and_a_full_disk_cost_lines_and_nothing_else(pipe: Pipe) -> None:
    pipe.close_reader()
    pipe.writer.msg(b"to nobody")
    assert pipe.writer.dropped == 1
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        full = LineWriter(fd)
        full.msg(b"no space")
        assert full.dropped == 1
    finally:
        os.close(fd)


def test_the_last_words_wait_for_a_slow_reader(pipe: Pipe) -> None:
    for _ in range(90):
        pipe.writer.msg(b"x" * 1000)
    os.set_blocking(pipe._read_fd, True)
    read: list[bytes] = []

    def read_all() -> None:
        while sum(map(len, read)) < 90 * 1001:
            read.append(pipe.read())

    reading = threading.Thread(target=read_all)
    reading.start()
    pipe.writer.flush(10 * LAST_WORDS_S)
    reading.join(10)
    assert sum(map(len, read)) == 90 * 1001


def test_a_name_that_is_no_text_is_written_all_the_same(log: Log) -> None:
    structlog.get_logger().info("file.seen", path="/tmp/\udcff")  # noqa: S108 - only named
    (line,) = log.lines
    assert line["path"] == r"'/tmp/\udcff'"


# --- what repeats itself -----------------------------------------------------------------------------------------


def test_what_says_the_same_is_said_so_often_and_then_counted() -> None:
    repeats = Repeats(first=3, window_s=60.0)
    assert [repeats.lets(float(now), "exited", "main") for now in range(10)] == [True] * 3 + [False] * 7
    assert repeats.lets(10.0, "exited", "other"), "that is another kind"
    assert repeats.over(59.9) == []
    assert repeats.over(60.0) == [(("exited", "main"), 7)]
    assert repeats.lets(60.0, "exited", "main"), "it may be news again"
    assert repeats.over(1000.0) == [], "nothing more was kept back"


def test_many_kinds_are_one_so_that_they_take_no_memory() -> None:
    repeats = Repeats(first=1, window_s=60.0, most=10)
    said = [repeats.lets(0.0, "exited", number) for number in range(100)]
    assert said == [True] * 11 + [False] * 89
    assert repeats.over(60.0) == [(("others",), 89)]


# --- what nobody catches -----------------------------------------------------------------------------------------

STRAY = f"""
import sys, threading
from service.logs import catch_strays, configure_logging
configure_logging("info")
catch_strays()
class Bad:
    def __del__(self):
        raise ValueError("{MARK}")
def fail():
    raise ValueError("{MARK}")
Bad()
thread = threading.Thread(target=fail, name="store")
thread.start()
thread.join()
import warnings
warnings.warn("something is old", stacklevel=1)
fail()
"""


def test_what_nobody_catches_is_told_as_a_line_without_its_message() -> None:
    found = subprocess.run([sys.executable, "-c", STRAY], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert MARK not in found.stdout + found.stderr
    lines = [json.loads(line) for line in found.stderr.splitlines()]
    told = [(line["event"], line["level"], line.get("error")) for line in lines]
    assert told == [
        ("exception.ignored", "error", "ValueError"),
        ("thread.crashed", "error", "ValueError"),
        ("library.logged", "warning", None),
        ("service.crashed", "critical", "ValueError"),
    ]
    assert lines[1]["thread"] == "store"
    assert "something is old" in lines[2]["message"]
    assert lines[3]["where"][-1].endswith("fail")
