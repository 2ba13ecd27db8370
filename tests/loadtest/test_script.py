"""`loadtest.script`: what a directive means."""

from __future__ import annotations

import pytest

from loadtest.script import (
    MAX_REPEAT,
    MAX_TRIED,
    Script,
    ScriptError,
    ToolCall,
    Tries,
    answer,
    count_tokens,
    quote_outputs,
    read_prompt,
    split,
    texts_of,
)
from tests.loadtest.driver import directive


def deltas(prompt: str, default: str = "the default") -> list[list[str]]:
    said, script = read_prompt(prompt)
    return [list(message) for message in answer(script, said, default)]


def test_a_prompt_without_a_directive_is_taken_as_it_is() -> None:
    assert read_prompt("an @@ address") == ("an @@ address", Script())


def test_the_words_before_the_directive_are_what_was_said() -> None:
    assert read_prompt('hello @@{"echo": true} and more')[0] == "hello"


def test_only_one_space_belongs_to_the_directive_so_that_an_echo_is_exact() -> None:
    assert deltas('two  \n @@{"echo": true, "chunk_size": 100}') == [["two  \n"]]


def test_a_directive_may_hold_braces_and_quotes_in_its_strings() -> None:
    assert deltas(directive(text='{"a": "@@{}"}', chunk_size=100)) == [['{"a": "@@{}"}']]


def test_a_text_comes_word_by_word_and_nothing_is_lost() -> None:
    text = "  one two\n\nthree  "
    assert split(text) == ("  one", " two", "\n\nthree", "  ")
    assert "".join(split(text)) == text


def test_chunks_are_the_exact_deltas() -> None:
    assert deltas(directive(chunks=["a", "", "b c"])) == [["a", "", "b c"]]


def test_a_chunk_size_cuts_every_message() -> None:
    assert deltas(directive(messages=["abc", "de"], chunk_size=2)) == [["ab", "c"], ["de"]]


def test_repeat_repeats_the_deltas() -> None:
    assert deltas(directive(chunks=["a", "b"], repeat=2)) == [["a", "b", "a", "b"]]
    assert deltas(directive(text="a b", repeat=2)) == [["a", " b", "a", " b"]]


def test_a_directive_about_the_pace_leaves_the_default_answer() -> None:
    assert deltas(directive(interval_s=0.1)) == [["the", " default"]]


def test_the_exact_deltas_of_a_default_are_kept() -> None:
    assert answer(Script(), "", ("a b", " c")) == (("a b", " c"),)


def test_tool_calls_alone_say_nothing_and_with_a_text_come_after_it() -> None:
    assert deltas(directive(tool_calls=[{"name": "f"}])) == []
    assert deltas(directive(tool_calls=[{"name": "f"}], text="wait")) == [["wait"]]


def test_a_failure_alone_says_nothing() -> None:
    assert deltas(directive(failed="server_error")) == []


def test_a_failure_is_a_code_or_an_object() -> None:
    failure = read_prompt(directive(failed={"code": "a", "message": "b"}))[1].failure
    assert failure is not None
    assert (failure.code, failure.message) == ("a", "b")
    short = read_prompt(directive(failed="a"))[1].failure
    assert short is not None
    assert short.code == "a"


def test_arguments_are_an_object_or_a_text_kept_verbatim() -> None:
    assert ToolCall("f", {"b": 1, "a": [True]}).arguments_text == '{"b":1,"a":[true]}'
    assert ToolCall("f", '{"b" : broken').arguments_text == '{"b" : broken'
    assert ToolCall("f").arguments_text == "{}"


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        ('@@{"text": ', "character 0"),
        (directive(txt="typo"), "unknown field `txt`"),
        (directive(repeat="3"), r"Expected `int`, got `str` - at `\$.repeat`"),
        (directive(repeat=0), "`repeat` must be between 1 and"),
        (directive(repeat=MAX_REPEAT + 1), "`repeat` must be between 1 and"),
        (directive(chunk_size=0), "`chunk_size` must be at least 1"),
        (directive(interval_s=-1), "must not be negative"),
        (directive(status=200), "`status` must be between 400 and 599"),
        (directive(hang="never"), "Invalid enum value 'never'"),
        (directive(big_line=-1), "`big_line` must be between"),
        (directive(text="x" * 100, repeat=MAX_REPEAT), "over the limit"),
        ("@@{" * 5000, "character 0"),
    ],
)
def test_a_directive_that_cannot_be_obeyed_is_refused_with_its_reason(prompt: str, complaint: str) -> None:
    with pytest.raises(ScriptError, match=complaint):
        read_prompt(prompt)


def test_usage_is_exact_where_it_is_given_and_estimated_elsewhere() -> None:
    script = read_prompt(directive(usage={"input_tokens": 7, "cached_tokens": 3}, reasoning="12345678"))[1]
    tokens = count_tokens(script, input_chars=400, output_chars=9)
    assert (tokens.input, tokens.cached, tokens.reasoning, tokens.output) == (7, 3, 2, 5)
    assert tokens.as_upstream()["total_tokens"] == 12


def test_late_frames_are_a_count_or_a_few() -> None:
    assert read_prompt(directive(late_frames=5))[1].late_deltas == 5
    assert read_prompt(directive(late_frames=True))[1].late_deltas > 0
    assert Script().late_deltas == 0


def test_the_outputs_of_tools_are_quoted() -> None:
    assert quote_outputs(["20C", "rain"]) == "The tools answered: 20C | rain"


def test_texts_are_found_in_strings_and_in_typed_parts() -> None:
    assert texts_of("a") == ["a"]
    assert texts_of([{"type": "input_text", "text": "a"}, {"type": "input_image"}, 3]) == ["a"]
    assert texts_of(None) == []


def test_a_prompt_that_fails_for_a_while_only_is_counted_by_itself() -> None:
    tries, flaky = Tries(), read_prompt(directive(text="x", status=503, failed="a", disconnect="first", fails=2))[1]
    assert [tries.obey(flaky, "one").status for _ in range(3)] == [503, 503, None]
    assert tries.obey(flaky, "two").status == 503
    assert tries.obey(flaky, "three").text is None
    now = tries.obey(flaky, "one")
    assert (now.failed, now.disconnect, now.text) == (None, None, "x")
    lasting = read_prompt(directive(status=503))[1]
    assert tries.obey(lasting, "four") is tries.obey(lasting, "four") is lasting


def test_prompts_that_fail_for_a_while_are_not_remembered_for_ever() -> None:
    tries, flaky = Tries(), read_prompt(directive(status=503, fails=1))[1]
    for number in range(MAX_TRIED + 1):
        tries.obey(flaky, str(number))
    assert tries.obey(flaky, "0").status == 503
    assert tries.obey(flaky, str(MAX_TRIED)).status is None
