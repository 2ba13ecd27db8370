"""Stored and background responses of the command itself, through OpenAI's SDK: whatever ends the process, what was
acknowledged is there.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.process.test_serve import Command, Serving, wait_until
from tests.support.response_events import check_stream
from tests.support.services import KEY, scripted

MODEL = "codex-5"
ENDLESS = scripted(chunks=["tick "], repeat=100_000, interval_s=0.01)
SLOWLY = scripted(chunks=["tick "], repeat=40, interval_s=0.01)
SAID = "tick " * 40


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """One seat."""
    command = Command(tmp_path)
    command.profile["slots"] = 1
    return command


@pytest.fixture
def serving(command: Command) -> Iterator[Serving]:
    with command.serve() as serving:
        yield serving


def sdk(serving: Serving) -> OpenAI:
    return OpenAI(base_url=f"http://127.0.0.1:{serving.port}/v1", api_key=KEY, max_retries=0)


def until(client: OpenAI, id: str, *statuses: str) -> Any:  # noqa: A002 - OpenAI's word
    """The response when it has one of these statuses."""
    wait_until(lambda: client.responses.retrieve(id).status in statuses)
    return client.responses.retrieve(id)


# --- the SDK -----------------------------------------------------------------------------------------------------


class Weather(BaseModel):
    city: str


def test_everything_that_the_sdk_has_for_stored_responses(serving: Serving) -> None:
    client = sdk(serving)
    first = client.responses.create(model=MODEL, input=scripted(text="one"))
    assert client.responses.retrieve(first.id) == first
    second = client.responses.create(model=MODEL, input=scripted(text="two"), previous_response_id=first.id)
    assert (second.output_text, second.previous_response_id) == ("two", first.id)
    listed = list(client.responses.input_items.list(second.id, limit=1, order="asc"))
    assert [item.type for item in listed] == ["message", "message", "message"], "the SDK turns the pages"
    parsed = client.responses.parse(
        model=MODEL, input=scripted(text='{"city": "Rome"}'), text_format=Weather, previous_response_id=second.id
    )
    assert parsed.output_parsed == Weather(city="Rome")
    with client.responses.stream(model=MODEL, input=scripted(text="three"), previous_response_id=parsed.id) as stream:
        third = stream.get_final_response()
    assert client.responses.retrieve(third.id).output_text == third.output_text == "three"
    client.responses.delete(third.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(third.id)
    with pytest.raises(openai.BadRequestError, match="synchronous"):
        client.responses.cancel(first.id)


def test_background_responses_are_polled_cancelled_and_streamed_again(serving: Serving) -> None:
    client = sdk(serving)
    polled = client.responses.create(model=MODEL, input=scripted(text="one"), background=True)
    assert polled.status == "queued"
    assert until(client, polled.id, "completed").output_text == "one"
    endless = client.responses.create(model=MODEL, input=ENDLESS, background=True)
    assert client.responses.cancel(endless.id).status == "cancelled"
    with client.responses.create(model=MODEL, input=SLOWLY, background=True, stream=True) as stream:
        events: list[Any] = []
        for event in stream:
            events.append(event)
            if event.type == "response.output_text.delta":
                break
    id, number = events[0].response.id, events[-1].sequence_number  # noqa: A001 - OpenAI's word
    with client.responses.retrieve(id, stream=True, starting_after=number) as again:
        events += list(again)
    check_stream([event.to_dict() for event in events])
    assert events[-1].response.output_text == SAID
    with client.responses.stream(response_id=id, starting_after=2) as helper:
        assert helper.get_final_response().output_text == SAID


# --- ends of the process -----------------------------------------------------------------------------------------


def test_a_killed_service_has_what_it_acknowledged_and_takes_up_what_was_queued(command: Command) -> None:
    with command.serve() as serving:
        client = sdk(serving)
        first = client.responses.create(model=MODEL, input=scripted(text="one"))
        running = client.responses.create(model=MODEL, input=ENDLESS, background=True)
        until(client, running.id, "in_progress")
        waiting = client.responses.create(
            model=MODEL, input=scripted(text="two"), background=True, previous_response_id=first.id
        )
        serving.signal(signal.SIGKILL)
        serving.exit_code()
    with command.serve() as serving:
        client = sdk(serving)
        assert client.responses.retrieve(first.id) == first
        assert until(client, waiting.id, "completed").output_text == "two"
        failed = until(client, running.id, "failed")
        assert failed.error.code == "server_error"
        assert failed.error.message == "the service was stopped while it worked on this response"
        assert serving.until_logged("background.recovered")["queued"] == 1


def test_the_stream_of_a_response_that_a_killed_service_worked_on_ends_with_all_that_it_had_said(
    command: Command,
) -> None:
    events: list[Any] = []
    with command.serve() as serving:
        client = sdk(serving)
        with client.responses.create(model=MODEL, input=ENDLESS, background=True, stream=True) as stream:
            for event in stream:
                events.append(event)
                if len(events) == 20:
                    break
        serving.signal(signal.SIGKILL)
        serving.exit_code()
    with command.serve() as serving:
        client = sdk(serving)
        failed = until(client, events[0].response.id, "failed")
        with client.responses.retrieve(failed.id, stream=True, starting_after=events[-1].sequence_number) as again:
            events += list(again)
    check_stream([event.to_dict() for event in events])
    assert events[-1].type == "response.failed"
    assert events[-1].response == failed
    assert failed.output_text.startswith("tick tick ")


def test_nothing_that_was_acknowledged_is_lost_when_the_service_is_killed_at_work(command: Command) -> None:
    command.profile["slots"] = 8
    told: dict[str, str] = {}
    with command.serve() as serving:
        client = sdk(serving)

        def work(caller: int) -> None:
            number = 0
            while True:
                text = f"answer {number} of caller {caller}"
                try:
                    answer = client.responses.create(model=MODEL, input=scripted(text=text))
                except openai.APIConnectionError:
                    return
                told[answer.id] = text
                number += 1

        callers = [threading.Thread(target=work, args=(caller,)) for caller in range(4)]
        for caller in callers:
            caller.start()
        wait_until(lambda: len(told) > 100)
        serving.signal(signal.SIGKILL)
        for caller in callers:
            caller.join()
    with command.serve() as serving:
        client = sdk(serving)
        assert {id: client.responses.retrieve(id).output_text for id in told} == told  # noqa: A001 - OpenAI's word


def test_a_drain_finishes_what_runs_and_leaves_what_waits(command: Command) -> None:
    command.config["server"]["drain_timeout_s"] = 1.0
    with command.serve() as serving:
        client = sdk(serving)
        running = client.responses.create(model=MODEL, input=SLOWLY, background=True)
        until(client, running.id, "in_progress")
        endless = client.responses.create(model=MODEL, input=ENDLESS, background=True)
        waiting = client.responses.create(model=MODEL, input=scripted(text="two"), background=True)
        serving.signal(signal.SIGTERM)
        assert serving.exit_code() == 0
    with command.serve() as serving:
        client = sdk(serving)
        assert client.responses.retrieve(running.id).output_text == SAID
        assert until(client, waiting.id, "completed").output_text == "two"
        cut = until(client, endless.id, "failed")
        assert cut.error.message == "the service is stopping (draining)"
