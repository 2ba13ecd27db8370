"""Calls that are written into a text, however it is cut into deltas."""

from __future__ import annotations

import itertools
import time

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.toolcalls.canon import CANON, to_obsidian_xml
from service.toolcalls.scanner import Block, Scanner, extract_use_tool_blocks

NESTED = "<use_tool>\n  <name>lookup_user</name>\n  <id>ユーザー-12345</id>\n</use_tool>"


def scanned(deltas: list[str], max_chars: int = 1000, tags: tuple[str, ...] = ("use_tool",)) -> list[str | Block]:
    """What is given, adjacent texts as one."""
    scanner = Scanner(tags, max_chars)
    out: list[str | Block] = []
    for piece in [*(piece for delta in deltas for piece in scanner.feed(delta)), scanner.flush()]:
        if isinstance(piece, str) and out and isinstance(out[-1], str):
            out[-1] += piece
        elif piece:
            out.append(piece)
    return out


def read(text: str) -> tuple[str, str]:
    (found,) = extract_use_tool_blocks(text)
    assert found.block.text == text
    return found.block.name, found.block.arguments


@pytest.mark.parametrize(
    "text",
    [
        NESTED,
        '<use_tool name="lookup_user"><id>ユーザー-12345</id></use_tool>',
        '<use_tool name=\'lookup_user\' >\n{"id": "ユーザー-12345"}\n</use_tool>',
        '<use_tool>{"name": "lookup_user", "arguments": {"id": "ユーザー-12345"}}</use_tool>',
        '<use_tool>{"name": "lookup_user", "arguments": "{\\"id\\": \\"ユーザー-12345\\"}"}</use_tool>',
        '<use_tool>{"name": "lookup_user", "id": "ユーザー-12345"}</use_tool>',
        '<use_tool><name> lookup_user </name><args>{"id": "ユーザー-12345"}</args></use_tool>',
    ],
)
def test_each_form_of_a_block_is_the_same_call(text: str) -> None:
    assert read(text) == ("lookup_user", '{"id": "ユーザー-12345"}')


def test_arguments_come_in_canonical_order_and_unknown_ones_after_them_sorted() -> None:
    text = (
        "<use_tool><name>localSearch</name><z>1</z><b>2</b><salientTerms>[1]</salientTerms><query>q</query></use_tool>"
    )
    assert read(text) == ("localSearch", '{"query": "q","salientTerms": [1],"b": "2","z": "1"}')


def test_lists_and_objects_stay_the_json_that_they_were_and_all_else_is_text() -> None:
    text = '<use_tool><name>f</name><a>[1.0, 1e2]</a><b>{"x":</b><c> 007 </c><d/></use_tool>'
    assert read(text) == ("f", '{"a": [1.0, 1e2],"b": "{\\"x\\":","c": "007","d": ""}')


def test_what_goes_into_a_file_is_not_touched() -> None:
    content = '\n  {"nodes": []}\n'
    assert read(f"<use_tool><name>writeToFile</name><path>a</path><content>{content}</content></use_tool>") == (
        "writeToFile",
        '{"path": "a","content": ' + msgspec.json.encode(content).decode() + "}",
    )


@pytest.mark.parametrize(
    ("written", "meant"),
    [("a &lt;b&gt; &amp;amp; &quot;c&apos;", "a <b> &amp; \"c'"), ("<b> &lt;", "<b> &lt;"), ("a & &gt;", "a & &gt;")],
)
def test_only_a_text_in_which_nothing_is_left_to_escape_is_unescaped(written: str, meant: str) -> None:
    assert read(f"<use_tool><name>f</name><a>{written}</a></use_tool>")[1] == '{"a": ' + (
        msgspec.json.encode(meant).decode() + "}"
    )


def test_a_parameter_that_comes_twice_is_a_list() -> None:
    assert read("<use_tool><name>f</name><a>x</a><a>y</a></use_tool>")[1] == '{"a": ["x","y"]}'


def test_args_that_are_no_object_are_the_arguments_as_they_are() -> None:
    assert read("<use_tool><name>f</name><args>{broken</args></use_tool>") == ("f", "{broken")


def test_the_end_of_a_block_within_a_value_is_not_its_end() -> None:
    body = "<use_tool><name>g</name></use_tool>"
    assert read(f"<use_tool><name>f</name><a>{body}</a></use_tool>")[0] == "f"
    assert read('<use_tool name="f">{"a": "}</use_tool>\\""}</use_tool>')[1] == '{"a": "}</use_tool>\\""}'


@pytest.mark.parametrize(
    "text",
    [
        "a <use_tool> is how it begins",
        "`<use_tool>`, `</use_tool>`",
        "<use_tool><id>1</id></use_tool>",
        "<use_tool><name></name></use_tool>",
        "<use_tool><name>two words</name></use_tool>",
        "<use_tool><name>f</name> please <id>1</id></use_tool>",
        "<use_tool><name>f</name><id>1</use_tool>",
        "<use_tool>{}</use_tool>",
        '<use_tool>{"name": "f", "arguments": 1}</use_tool>',
        '<use_tool name="f">{"a"}</use_tool>',
        '<use_tool name="f">text</use_tool>',
        "<use_tools><name>f</name></use_tools>",
        "<use_tool><name>lookup_user</name><id>1</id>\n</us",
        "a < b <",
    ],
)
def test_what_turns_out_to_be_no_block_is_text_of_which_nothing_is_lost(text: str) -> None:
    assert scanned([text]) == [text]
    assert scanned(list(text)) == [text]


def test_prose_about_a_block_is_not_held_back() -> None:
    assert "".join(map(str, Scanner().feed("begin with <use_tool> and then"))) == "begin with <use_tool> and then"
    assert Scanner().feed("a <b> <use_tool><id>") == ["a <b> <use_tool><id>"]


def test_after_a_literal_or_a_broken_block_the_next_one_is_found() -> None:
    broken = "<use_tool> or <use_tool><name>f</name>\n"
    pieces = scanned([broken, NESTED, " tail"])
    assert [piece if isinstance(piece, str) else piece.text for piece in pieces] == [broken, NESTED, " tail"]


def test_text_before_a_block_stays_before_it_and_text_after_it_stays_after_it() -> None:
    pieces = scanned(["before ", NESTED + " AFTER", "_TOOL_TEXT"])
    assert [piece if isinstance(piece, str) else piece.name for piece in pieces] == [
        "before ",
        "lookup_user",
        " AFTER_TOOL_TEXT",
    ]


def test_nothing_of_a_block_in_small_pieces_is_shown_as_text() -> None:
    scanner = Scanner()
    shown = [piece for at in range(0, len(NESTED), 7) for piece in scanner.feed(NESTED[at : at + 7])]
    assert [type(piece) for piece in shown] == [Block]
    assert scanner.flush() == ""


def test_a_block_that_is_cut_off_is_text_and_no_call() -> None:
    cut_off = NESTED[:-6]
    scanner = Scanner()
    assert scanner.feed(cut_off) == []
    assert scanner.flush() == cut_off


def test_a_block_longer_than_may_be_held_is_text() -> None:
    long = f"<use_tool><name>f</name><a>{'x' * 100}</a></use_tool>"
    assert scanned([long], max_chars=len(long) - 1) == [long]
    assert len(scanned([long], max_chars=len(long))) == 1
    assert isinstance(scanned([long], max_chars=len(long))[0], Block)
    scanner = Scanner(max_chars=50)
    for letter in long:
        scanner.feed(letter)
        assert len(scanner.held) < 50


def test_another_tag_begins_a_block_when_it_is_registered() -> None:
    pieces = scanned(["<call><name>f</name></call><use_tool><name>g</name></use_tool>"], tags=("call", "use_tool"))
    assert [piece.name for piece in pieces if isinstance(piece, Block)] == ["f", "g"]


FRAGMENTS = st.sampled_from(
    [
        *("<use_tool>", '<use_tool name="f">', "</use_tool>", "<name>", "</name>", "f", "<a>", "</a>", "<a/>", "ü"),
        *("<args>", "</args>", '{"name":"f"}', '{"a":"</use_tool>"', "}", '"', "\\", " ", "<", "</", ">", "<use_"),
        *("text", NESTED),
    ]
)
TEXTS = st.lists(FRAGMENTS, max_size=30).map("".join)


@given(TEXTS, st.lists(st.integers(0, 300), max_size=20), st.integers(8, 120))
@example("<use_tool><name>f</name><a></use_tool>", [3, 30], 32)
def test_the_result_does_not_depend_on_how_the_text_was_cut(text: str, cuts: list[int], max_chars: int) -> None:
    places = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    deltas = [text[start:end] for start, end in itertools.pairwise(places)]
    whole = scanned([text], max_chars)
    assert scanned(deltas, max_chars) == whole
    assert scanned(list(text), max_chars) == whole
    assert "".join(piece if isinstance(piece, str) else piece.text for piece in whole) == text


KEYS = st.sampled_from(["query", "b", "id", "name", "path", "content"])
VALUES = st.text(st.sampled_from("a<&>\"'; \nü"), max_size=12).map(str.strip)


@given(st.sampled_from([*CANON, "f"]), st.dictionaries(KEYS, VALUES, min_size=1, max_size=4))
def test_a_call_written_as_text_is_read_as_the_same_call(name: str, arguments: dict[str, str]) -> None:
    assert msgspec.json.decode(read(to_obsidian_xml(name, arguments))[1]) == arguments


def test_a_call_is_written_with_its_name_first_and_its_parameters_in_order() -> None:
    arguments = '{"z":null,"salientTerms":["a & b"],"query":"<q>","chunk":3}'
    assert to_obsidian_xml("localSearch", arguments) == (
        "<use_tool>\n  <name>localSearch</name>\n  <query>&lt;q&gt;</query>\n"
        "  <salientTerms>[&quot;a &amp; b&quot;]</salientTerms>\n  <chunk>3</chunk>\n  <z>null</z>\n</use_tool>"
    )


def test_a_call_is_written_as_the_predecessor_wrote_it() -> None:
    assert to_obsidian_xml("lookup_user", '{"id":"42","choice":0}') == (
        "<use_tool>\n  <name>lookup_user</name>\n  <choice>0</choice>\n  <id>42</id>\n</use_tool>"
    )


@pytest.mark.parametrize("arguments", ["{broken", "[1]", '{"two words":1}'])
def test_arguments_that_are_no_parameters_are_written_whole(arguments: str) -> None:
    xml = to_obsidian_xml("f", arguments)
    assert xml.count("<args>") == 1
    assert read(xml)[1].replace(": ", ":") == arguments


def test_a_call_without_arguments_is_written_with_its_name_only() -> None:
    assert to_obsidian_xml("getFileTree", "") == "<use_tool>\n  <name>getFileTree</name>\n</use_tool>"


@pytest.mark.parametrize("unit", ["<use_tool>", "<use_tool><name>f</name><a>", "<", '<use_tool name="f">{', "<b>"])
def test_a_text_that_is_made_to_be_hard_takes_time_in_proportion_to_its_length(unit: str) -> None:
    text = unit * (400_000 // len(unit))
    began = time.process_time()
    assert scanned([text], max_chars=1 << 20) == [text]
    assert time.process_time() - began < 10


def test_a_block_that_calls_anything_but_these_is_text_as_soon_as_that_is_known() -> None:
    scanner = Scanner(names={"look"})
    assert scanner.feed("<use_tool>\n<name>loo") == []
    assert scanner.feed("k</name></use_tool>") == [
        Block("look", "{}", "<use_tool>\n<name>look</name></use_tool>"),
    ]
    assert "".join(map(str, scanner.feed("<use_tool><name>listen</name>"))) == "<use_tool><name>listen</name>"
    assert scanner.held == ""
    in_json = '<use_tool>{"name": "listen"}</use_tool>'
    assert "".join(map(str, scanner.feed(in_json))) + scanner.flush() == in_json
