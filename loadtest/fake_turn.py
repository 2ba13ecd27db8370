"""One turn of the fake app-server: which frames, in which order, with which pauses and faults.

A turn is a generator of pauses. Between two pauses it writes its frames; the server resumes it when the pause is over,
or earlier when the client answers what the turn has asked.
"""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

import msgspec

from loadtest import fake_errors as errors
from loadtest import fake_frames as frames
from loadtest.script import ToolCall, answer, count_tokens, quote_outputs, split, texts_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from loadtest.fake_frames import Json
    from loadtest.fake_server import FakeServer, Message
    from loadtest.fake_thread import Thread
    from loadtest.script import Deltas, Tokens

    Pauses = Generator[float, None, None]

_BATCH_BYTES: Final = 64 * 1024
_encode = msgspec.json.Encoder().encode


class TurnRequest:
    """What `turn/start` brought."""

    def __init__(self, message: Message, inputs: list[Json], overrides: Json) -> None:
        self.message = message
        self.inputs = inputs
        self.overrides = overrides


class Turn:
    """A running turn; it knows when it is over and tells the server."""

    def __init__(self, server: FakeServer, thread: Thread, request: TurnRequest) -> None:
        self.id = server.new_id()
        self.thread = thread
        self.prompt = thread.prompt
        self.script = server.tries.obey(thread.prompt.script, thread.prompt.text)
        self._server = server
        self._request = request
        self._number = next(server.turn_numbers)
        self._started_s = server.wall_s
        self._is_replied = False
        self._has_headers = False
        self._pending_calls: list[tuple[ToolCall, str]] = []
        self._delivered: str | None = None
        self._unreported: Tokens | None = None
        self._answers: dict[int, Any] = {}
        self._last_item: Json | None = None
        self._steps = self._play()

    def advance(self) -> None:
        """Writes frames up to the next pause."""
        pause = next(self._steps, None)
        if pause is not None:
            self._server.call_after(pause, self._resume)

    def take_answer(self, number: int, answer: object) -> None:
        """The client has answered a server request; None stands for a JSON-RPC error."""
        self._answers[number] = answer
        self.advance()

    def interrupt(self, request: Message) -> None:
        """Ends the turn the way `turn/interrupt` does, and replies."""
        self._steps.close()
        self._reply_now()
        self._abort_calls()
        if self._unreported is not None:
            self._report_usage(self._unreported)
        if self._has_headers:
            self._server.notify("account/rateLimits/updated", frames.RATE_LIMITS)
        note = frames.raw_user_message(
            f"msg_{self._server.new_id()}",
            [frames.ABORTED_NOTE],
            self.id,
            self._server.wall_s,
            "generic.turn_aborted",
        )
        self._raw(note)
        self._server.reply(request, {"result": {}}, self.thread)
        self._end("interrupted")

    def _resume(self) -> None:
        if self.thread.turn is self:
            self.advance()

    # The course of a turn.

    def _play(self) -> Pauses:
        yield from self._break("start")
        self._open()
        yield from self._break("first")
        if self.prompt.error is not None:
            self._fail(errors.refused_directive(self.prompt.error))
            return
        if self.script.delay_s:
            yield from self._pause(self.script.delay_s)
        if self.script.hang == "headers":
            yield from self._pause(math.inf)
        if self.script.status is not None:
            self._fail(errors.http_error(self.script, self._server.options.version_numbers))
            return
        self._has_headers = True
        if self.script.hang == "first":
            yield from self._pause(math.inf)
        if self.script.disconnect == "first":
            self._fail(errors.dropped_connection())
            return
        decision = yield from self._ask_client()
        yield from self._respond(decision)

    def _open(self) -> None:
        """The frames before the model is asked. The reply to `turn/start` races with them, as in the real one."""
        server, place = self._server, self._number % 25
        if place % 4 == 0 and place != 24:
            self._reply_now()
        if self._request.overrides:
            thread = self.thread
            settings = frames.thread_settings(
                self._request.overrides, model=thread.model, provider=thread.provider, cwd=server.options.cwd
            )
            self._note("thread/settings/updated", {"threadId": thread.id, "threadSettings": settings})
        self._status({"type": "active", "activeFlags": []})
        started = frames.turn(self.id, "inProgress", startedAt=int(self._started_s))
        self._note("turn/started", {"threadId": self.thread.id, "turn": started})
        if place != 24:
            self._reply_now()
        if self._request.inputs:
            self._echo(self._request.inputs)

    def _echo(self, inputs: list[Json]) -> None:
        server = self._server
        texts = texts_of([part for part in inputs if part.get("type") == "text"])
        self._raw(frames.raw_user_message(f"msg_{server.new_id()}", texts, self.id, server.wall_s, "user.text"))
        item = frames.user_message(server.new_id(), inputs)
        self._item_started(item)
        self._item_completed(item)

    def _respond(self, decision: str) -> Pauses:
        """Model responses, until one calls no tool."""
        outputs = self.thread.outputs if self.script.tool_calls else []
        thoughts = self.script.reasoning
        while True:
            response_id = f"resp_{next(self._server.response_numbers)}"
            calls = () if outputs else self.script.tool_calls
            messages = self._messages(outputs, decision)
            if thoughts is not None:
                self._think(response_id, thoughts)
            for index, deltas in enumerate(messages):
                yield from self._say(response_id, index, deltas)
            if self.thread.turn is not self:  # the connection broke in the middle
                return
            for index, call in enumerate(calls):
                self._call(response_id, index, call)
            chars = sum(len(delta) for deltas in messages for delta in deltas)
            tokens = count_tokens(self.script, input_chars=self.thread.input_chars, output_chars=chars)
            if self._failed_at_the_end(tokens):
                return
            outputs = yield from self._finish(response_id, tokens)
            self.thread.input_chars += chars + sum(len(text) for text in outputs)
            self.thread.input_chars += sum(len(call.arguments_text) for call in calls)
            if not outputs:
                self._status({"type": "idle"})
                self._end("completed")
                return
            thoughts = None

    def _messages(self, outputs: list[str], decision: str) -> list[Deltas]:
        if outputs:
            return [split(quote_outputs(outputs))]
        messages = list(answer(self.script, self.prompt.said, self._server.options.deltas))
        if decision:
            messages = [*messages[:-1], (*messages[-1], decision)] if messages else [(decision,)]
        if self.script.stamp:
            stamp = f"<{PurePath(self._server.options.home).parent.name}#{self._number}>"
            messages = [tuple(stamp + delta for delta in deltas) for deltas in messages]
        return messages

    def _finish(self, response_id: str, tokens: Tokens) -> Generator[float, None, list[str]]:
        """The end of a model response; the outputs of the tools it called, if any."""
        self._unreported = tokens
        first = self._number % 2 == 1 and self._deliver()
        body = {"amount": None, "metadata": tokens.as_upstream()}
        params = {**self._ids(), "responseId": response_id, "usage": frames.usage(tokens), "usageMetadata": body}
        if self.thread.raw_events:
            self._note("rawResponse/completed", params)
        if not first:
            self._deliver()
        outputs = yield from self._run_tools()
        self._report_usage(tokens)
        self._server.notify("account/rateLimits/updated", frames.RATE_LIMITS)
        return outputs

    def _failed_at_the_end(self, tokens: Tokens) -> bool:
        script, failure = self.script, self.script.failure
        if script.disconnect == "middle":
            self._fail(errors.dropped_connection())
        elif failure is not None:
            if failure.code == "context_length_exceeded":
                self._server.notify("account/rateLimits/updated", frames.RATE_LIMITS)
                full = {**frames.NO_TOKENS, "totalTokens": frames.CONTEXT_WINDOW}
                self._note_usage(full, full)
            self._fail(errors.stream_failure(failure.code, failure.message))
        elif script.incomplete is not None:
            if script.incomplete == "max_output_tokens":
                self._add_usage(tokens)
                self._note_usage(self.thread.usage, frames.NO_TOKENS)
            self._fail(errors.incomplete(script.incomplete))
        else:
            return False
        return True

    # Items.

    def _think(self, response_id: str, summary: str) -> None:
        item_id = f"rs_{response_id}"
        self._item_started({"type": "reasoning", "id": item_id, "summary": [], "content": []})
        at = {**self._ids(), "itemId": item_id}
        self._note("item/reasoning/summaryPartAdded", {**at, "summaryIndex": 0})
        for delta in split(summary):
            self._note("item/reasoning/summaryTextDelta", {**at, "delta": delta, "summaryIndex": 0})
        self._item_completed({"type": "reasoning", "id": item_id, "summary": [summary], "content": []})
        self._raw(frames.raw_reasoning(item_id, summary, self.id))

    def _say(self, response_id: str, index: int, deltas: Deltas) -> Pauses:
        item_id = f"msg_{response_id}" if index == 0 else f"msg_{response_id}_{index}"
        interval_s = self.script.interval_s or self._server.options.interval_s
        self._item_started(frames.agent_message(item_id, ""))
        self._last_item = frames.agent_message(item_id, "")
        head = _encode({"threadId": self.thread.id, "turnId": self.id, "itemId": item_id})[:-1]
        head = b'{"method":"item/agentMessage/delta","params":' + head + b',"delta":'
        is_wanted = self.thread.is_subscribed and self._server.wants("item/agentMessage/delta")
        for number, delta in enumerate(deltas):
            if number and interval_s:
                yield from self._pause(interval_s)
                is_wanted = is_wanted and self.thread.is_subscribed
            elif len(self._server.out) >= _BATCH_BYTES:
                yield from self._pause(0.0)
            if is_wanted:
                self._server.write(head + b'%b},"emittedAtMs":%d}\n' % (_encode(delta), self._server.wall_s * 1000))
            if number == 0:
                yield from self._break("middle")
                if self.script.hang == "middle":
                    yield from self._pause(math.inf)
                if self.script.disconnect == "middle":
                    self._fail(errors.dropped_connection())
                    return
        text = "".join(deltas)
        self._last_item = frames.agent_message(item_id, text)
        self._item_completed(self._last_item)
        self._raw(frames.raw_message(item_id, text, self.id))

    def _call(self, response_id: str, index: int, call: ToolCall) -> None:
        call_id = call.call_id or f"call_{response_id}_{index}"
        self._pending_calls.append((call, call_id))
        self._raw(frames.raw_function_call(f"fc_{response_id}_{index}", call, call_id, self.id))

    # Tools: one call at a time is put to the client, the last one first.

    def _deliver(self) -> bool:
        """Puts the next call to the client; False if there is none it should see."""
        for call, call_id in reversed(self._pending_calls):
            if _local_output(call, self.thread.tools) is None:
                arguments = msgspec.json.decode(call.arguments_text)
                self._item_started(frames.tool_call(call_id, call.name, arguments, None, "inProgress"))
                params = {**self._ids(), "callId": call_id, "namespace": None, "tool": call.name}
                self._delivered = call_id
                self._server.ask("item/tool/call", {**params, "arguments": arguments}, self)
                return True
        return False

    def _run_tools(self) -> Generator[float, None, list[str]]:
        """Waits for the answers to all calls and returns the outputs, in the order of the calls."""
        order = [call_id for _call, call_id in self._pending_calls]
        outputs: dict[str, str] = {}
        while self._pending_calls:
            if self._delivered is None and not self._deliver():
                for call, call_id in self._pending_calls:
                    outputs[call_id] = _local_output(call, self.thread.tools) or ""
                self._pending_calls.clear()
                break
            yield from self._await_answer()
            call, call_id = next(pending for pending in self._pending_calls if pending[1] == self._delivered)
            outputs[call_id] = self._take_output(call, call_id)
            self._pending_calls.remove((call, call_id))
            self._delivered = None
        for call_id in order:
            item_id = f"fco_{self._server.new_id()}"
            self._raw(frames.raw_output(item_id, call_id, outputs[call_id], self.id, self._server.wall_s))
        return [outputs[call_id] for call_id in order]

    def _await_answer(self) -> Pauses:
        while not self._answers:
            yield from self._pause(math.inf)

    def _take_output(self, call: ToolCall, call_id: str) -> str:
        _number, result = self._answers.popitem()
        refused = {"contentItems": [{"type": "inputText", "text": "dynamic tool request failed"}], "success": False}
        if not isinstance(result, dict) or not isinstance(result.get("contentItems"), list):
            result = refused
        arguments = msgspec.json.decode(call.arguments_text)
        status = "completed" if result.get("success") else "failed"
        self._item_completed(frames.tool_call(call_id, call.name, arguments, {"success": False, **result}, status))
        return "".join(part.get("text", "") for part in result["contentItems"])

    def _abort_calls(self) -> None:
        for call, call_id in self._pending_calls:
            if call_id == self._delivered:
                nothing = {"contentItems": [], "success": False}
                arguments = msgspec.json.decode(call.arguments_text)
                self._item_completed(frames.tool_call(call_id, call.name, arguments, nothing, "failed"))
        for _call, call_id in self._pending_calls:
            output = "aborted by user after 0.1s"
            if call_id == self._delivered:
                output = "dynamic tool call was cancelled before receiving a response"
            item_id = f"fco_{self._server.new_id()}"
            self._raw(frames.raw_output(item_id, call_id, output, self.id, self._server.wall_s))

    def _ask_client(self) -> Generator[float, None, str]:
        """The scripted server request; what to say about its answer."""
        method = self.script.server_request
        if method is None:
            return ""
        server, item_id = self._server, f"call_scripted_{self._number}"
        if method == "item/tool/call":
            call: Json = {"callId": item_id, "namespace": None, "tool": "scripted_tool", "arguments": {}}
            number = server.ask(method, {**self._ids(), **call}, self)
        else:
            self._status({"type": "active", "activeFlags": ["waitingOnApproval"]})
            self._item_started(frames.command(item_id, server.options.cwd, "inProgress"))
            approval = {
                "kind": "command",
                **self._ids(),
                "itemId": item_id,
                "startedAtMs": int(server.wall_s * 1000),
                "environmentId": "local",
                "command": "bash -lc true",
                "cwd": server.options.cwd,
                "commandActions": [{"type": "unknown", "command": "true"}],
                "availableDecisions": ["accept", "cancel"],
            }
            number = server.ask(method, approval, self)
        yield from self._await_answer()
        self._note("serverRequest/resolved", {"threadId": self.thread.id, "requestId": number})
        if method != "item/tool/call":
            self._status({"type": "active", "activeFlags": []})
            self._item_completed(frames.command(item_id, server.options.cwd, "declined"))
        result = self._answers.pop(number)
        return " The client refused." if result is None else f" The client answered {_encode(result).decode()}."

    # Faults.

    def _break(self, place: str) -> Pauses:
        """The process faults of the script that belong here."""
        script, server = self.script, self._server
        if script.at != place:
            return
        if script.garbage:
            server.write(b"this line is not JSON\n")
        if script.big_line:
            frame = b'{"method":"fake/noise","params":{"noise":"%b"}}'
            server.write(frame % (b"x" * max(0, script.big_line - len(frame) + 2)) + b"\n")
        if script.half_line:
            server.write(b'{"method":"item/agentMessage/delta","params":{"thr')
        if script.stdout_eof:
            server.host.close_stdout()
        if script.stop_self:
            server.host.stop_self()
        if script.kill_self:
            server.host.kill_self()
        if script.exit is not None:
            server.host.exit(script.exit)
        if script.half_line or script.stdout_eof or script.kill_self or script.exit is not None:
            server.is_mute = True
            yield from self._pause(math.inf)

    # Endings.

    def _fail(self, error: errors.CodexError) -> None:
        if self._has_headers:
            self._server.notify("account/rateLimits/updated", frames.RATE_LIMITS)
        body = frames.turn_error(*error)
        self._status({"type": "systemError"})
        self._note("error", {"error": body, "willRetry": False, **self._ids()})
        self._end("failed", error=body)

    def _end(self, status: str, **fields: object) -> None:
        self._reply_now()
        if status == "interrupted":
            self._status({"type": "idle"})
        elif status == "completed" and self._last_item is not None and self._last_item["text"]:
            fields = {"items": [self._last_item], "itemsView": "summary"}
        duration_ms = int((self._server.wall_s - self._started_s) * 1000)
        times = {"startedAt": int(self._started_s), "completedAt": int(self._server.wall_s), "durationMs": duration_ms}
        turn = frames.turn(self.id, status, **times, **fields)
        self._note("turn/completed", {"threadId": self.thread.id, "turn": turn})
        item_id = (self._last_item or {"id": "msg_late"})["id"]
        for number in range(self.script.late_deltas):
            self._note("item/agentMessage/delta", {**self._ids(), "itemId": item_id, "delta": f" late {number}"})
        self._server.turn_ended(self.thread)

    # Small things.

    def _pause(self, seconds: float) -> Pauses:
        self._reply_now()
        yield seconds

    def _reply_now(self) -> None:
        if not self._is_replied:
            self._is_replied = True
            reply = {"result": {"turn": frames.turn(self.id, "inProgress")}}
            self._server.reply(self._request.message, reply, self.thread)

    def _ids(self) -> Json:
        return {"threadId": self.thread.id, "turnId": self.id}

    def _note(self, method: str, params: Json) -> None:
        if self.thread.is_subscribed:
            self._server.notify(method, params)

    def _status(self, status: Json) -> None:
        self._server.notify("thread/status/changed", {"threadId": self.thread.id, "status": status})

    def _raw(self, item: Json) -> None:
        if self.thread.raw_events:
            self._note("rawResponseItem/completed", {**self._ids(), "item": item})

    def _item_started(self, item: Json) -> None:
        self._note("item/started", {"item": item, **self._ids(), "startedAtMs": int(self._server.wall_s * 1000)})
        self._reply_now()

    def _item_completed(self, item: Json) -> None:
        self._note("item/completed", {"item": item, **self._ids(), "completedAtMs": int(self._server.wall_s * 1000)})

    def _report_usage(self, tokens: Tokens) -> None:
        self._unreported = None
        self._add_usage(tokens)
        self._note_usage(self.thread.usage, frames.usage(tokens))

    def _add_usage(self, tokens: Tokens) -> None:
        total = self.thread.usage
        for name, count in frames.usage(tokens).items():
            total[name] += count

    def _note_usage(self, total: Json, last: Json) -> None:
        usage = {"total": total, "last": last, "modelContextWindow": frames.CONTEXT_WINDOW}
        self._note("thread/tokenUsage/updated", {**self._ids(), "tokenUsage": usage})


def _local_output(call: ToolCall, tools: frozenset[str]) -> str | None:
    """What the app-server answers the model itself, without asking the client."""
    if call.name not in tools:
        return f"unsupported call: {call.name}"
    try:
        msgspec.json.decode(call.arguments_text)
    except ValueError as error:
        return f"failed to parse function arguments: {error}"
    return None
