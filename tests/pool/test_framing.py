from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pool.protocol.framing import HEAD_BYTES, LineSplitter, Oversized

LIMIT = 12

chunks_of_bytes = st.lists(
    st.one_of(
        st.binary(max_size=3 * LIMIT),
        st.sampled_from([b"\n", b"\n\n", b"", b"x" * LIMIT, b"x" * (LIMIT + 1), b"y" * LIMIT + b"\n"]),
    ),
    max_size=20,
)


def lines_of(data: bytes) -> list[bytes]:
    """What the whole stream means, however it was cut."""
    return data.split(b"\n")[:-1]


@given(chunks_of_bytes)
@example([b"x" * LIMIT, b"\n", b"x" * LIMIT, b"y\n", b"z\n"])
@example([b"x" * (LIMIT + 1), b"\nnext\n"])
def test_any_chunking_gives_the_same_lines(chunks: list[bytes]) -> None:
    splitter = LineSplitter(LIMIT)
    got = [line for chunk in chunks for line in splitter.feed(chunk)]
    expected = lines_of(b"".join(chunks))
    assert len(got) == len(expected)
    for line, whole in zip(got, expected, strict=True):
        if len(whole) <= LIMIT:
            assert line == whole
        else:
            assert isinstance(line, Oversized)
            assert whole.startswith(line.head)
            assert len(line.head) > LIMIT


@given(chunks_of_bytes)
def test_a_line_comes_out_with_the_chunk_that_ends_it(chunks: list[bytes]) -> None:
    splitter = LineSplitter(LIMIT)
    so_far = b""
    for chunk in chunks:
        before = len(lines_of(so_far))
        so_far += chunk
        assert len(splitter.feed(chunk)) == len(lines_of(so_far)) - before


@given(chunks_of_bytes)
def test_never_more_than_the_limit_is_held(chunks: list[bytes]) -> None:
    splitter = LineSplitter(LIMIT)
    so_far = b""
    for chunk in chunks:
        splitter.feed(chunk)
        so_far += chunk
        unfinished = len(so_far.rpartition(b"\n")[2])
        assert splitter.pending_bytes == (unfinished if unfinished <= LIMIT else 0)


@pytest.mark.parametrize("chunk_bytes", [1, 999, 1024, 100_000])
def test_an_oversized_line_is_told_by_its_head_and_costs_no_other_line(chunk_bytes: int) -> None:
    long = bytes(range(1, 10)) + bytes(range(11, 256)) * 80
    data = b"before\n" + long + b"\nafter\n"
    splitter = LineSplitter(2 * HEAD_BYTES)
    got = []
    for start in range(0, len(data), chunk_bytes):
        got += splitter.feed(data[start : start + chunk_bytes])
    assert got == [b"before", Oversized(long[:HEAD_BYTES]), b"after"]


def test_a_line_of_exactly_the_limit_passes_and_one_byte_more_does_not() -> None:
    splitter = LineSplitter(LIMIT)
    assert splitter.feed(b"x" * LIMIT + b"\n") == [b"x" * LIMIT]
    assert splitter.feed(b"x" * (LIMIT + 1) + b"\n") == [Oversized(b"x" * (LIMIT + 1))]


def test_a_line_that_never_ends_takes_bounded_memory() -> None:
    limit = 1024 * 1024
    splitter = LineSplitter(limit)
    tracemalloc.start()
    try:
        for number in range(400):
            assert splitter.feed(b"%05d" % number * 13_000) == []
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * limit
    assert now < limit // 2
    (line,) = splitter.feed(b"\n")
    assert isinstance(line, Oversized)
