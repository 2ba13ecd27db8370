"""What is used of the protocol is what the packaged CLI has. `python -m tests.codex.test_schema` pins it anew."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pool.protocol
from pool.binary import protocol_schema, resolve
from pool.protocol import dialect_v2 as dialect
from pool.protocol.drift import Used, drift, pinned, used

PINNED = Path(pool.protocol.__file__).parent / "used.json"
Schema = dict[str, Any]


def written(found: Used) -> str:
    return "{\n" + ",\n".join(f"{json.dumps(thing)}: {json.dumps(words)}" for thing, words in found.items()) + "\n}\n"


@pytest.fixture(scope="module")
def packaged() -> Schema:
    found = protocol_schema(resolve(None))
    assert isinstance(found, dict)
    return found


@pytest.fixture
def schema(packaged: Schema) -> Schema:
    """The packaged CLI's, to be doctored."""
    return copy.deepcopy(packaged)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", "check", "--schema", *arguments],
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def cli_with(folder: Path, schema: Any) -> str:
    """A program that writes this schema as the CLI does."""
    (folder / "schema.json").write_text(json.dumps(schema))
    program = folder / "codex"
    program.write_text(
        "#!/bin/sh\n"
        f'[ "$2" = generate-json-schema ] && cp {folder}/schema.json "$5/codex_app_server_protocol.schemas.json"\n'
    )
    program.chmod(0o755)
    return str(program)


def test_the_packaged_cli_has_what_is_pinned(packaged: Schema) -> None:
    assert PINNED.read_text() == written(used(packaged)), "python -m tests.codex.test_schema"
    done = command()
    assert done.stderr == ""
    assert done.stdout == f"{resolve(None)}: of what is used of its protocol, nothing has changed\n"
    assert done.returncode == 0


def test_the_packaged_cli_has_all_that_is_used() -> None:
    absent = {thing for thing, words in pinned().items() if not words}
    assert absent == {"thread/loaded/list needs", "thread/start needs"}, "nothing is needed there"


def test_every_notification_that_is_read_and_every_request_that_is_refused_is_pinned() -> None:
    assert {f"notification {name}" for name in (*dialect.NOTIFICATIONS, *dialect.IGNORED)} <= pinned().keys()
    assert {f"request {name}" for name in (*dialect.REFUSALS, dialect.TOOL_CALL_REQUEST)} <= pinned().keys()


def without_method(schema: Schema) -> None:
    variants = schema["definitions"]["ClientRequest"]["oneOf"]
    variants[:] = [each for each in variants if each["properties"]["method"]["enum"] != ["turn/interrupt"]]


def without_notification(schema: Schema) -> None:
    for variant in schema["definitions"]["ServerNotification"]["oneOf"]:
        if variant["properties"]["method"]["enum"] == ["thread/closed"]:
            variant["properties"]["method"]["enum"] = ["thread/ended"]


def renamed_field(schema: Schema) -> None:
    properties = schema["definitions"]["v2"]["AgentMessageDeltaNotification"]["properties"]
    properties["text"] = properties.pop("delta")


def another_type(schema: Schema) -> None:
    schema["definitions"]["v2"]["ThreadStartParams"]["properties"]["ephemeral"] = {"type": "string"}


def more_needed(schema: Schema) -> None:
    schema["definitions"]["v2"]["TurnStartParams"]["required"].append("turnTrigger")


def no_longer_certain(schema: Schema) -> None:
    schema["definitions"]["v2"]["Turn"]["required"].remove("status")


def new_error(schema: Schema) -> None:
    schema["definitions"]["v2"]["CodexErrorInfo"]["anyOf"][0]["enum"].append("outOfLuck")


def without_kind_of_item(schema: Schema) -> None:
    variants = schema["definitions"]["v2"]["ResponseItem"]["oneOf"]
    variants[:] = [each for each in variants if each["properties"]["type"]["enum"] != ["reasoning"]]


def another_refusal(schema: Schema) -> None:
    for variant in schema["definitions"]["FileChangeApprovalDecision"]["oneOf"]:
        variant["enum"] = ["no" if word == "decline" else word for word in variant["enum"]]


@pytest.mark.parametrize(
    ("doctor", "expected"),
    [
        (without_method, "request turn/interrupt: no longer there"),
        (without_notification, "notification thread/closed: no longer there"),
        (renamed_field, "item/agentMessage/delta.delta: no longer string"),
        (another_type, "thread/start.ephemeral: no longer boolean, no longer null, now string"),
        (more_needed, "turn/start needs: now turnTrigger"),
        (no_longer_certain, "turn/completed.turn.status: now optional"),
        (new_error, 'turn/completed.turn.error.codexErrorInfo: now "outOfLuck"'),
        (without_kind_of_item, 'rawResponseItem/completed.item.type: no longer "reasoning"'),
        (another_refusal, 'item/fileChange/requestApproval result.decision: no longer "decline"'),
    ],
)
def test_a_change_of_what_is_used_is_told(schema: Schema, doctor: Callable[[Schema], None], expected: str) -> None:
    doctor(schema)
    assert expected in drift(pinned(), used(schema))


def test_what_is_not_used_may_change(schema: Schema) -> None:
    definitions = schema["definitions"]
    del definitions["v2"]["ThreadStartParams"]["properties"]["personality"]
    del definitions["v2"]["Turn"]["properties"]["durationMs"]
    definitions["v2"]["Turn"]["required"].append("rootTurnId")
    definitions["v2"]["ThreadItem"]["oneOf"].pop(0)
    definitions["ClientRequest"]["oneOf"] = [
        each
        for each in definitions["ClientRequest"]["oneOf"]
        if each["properties"]["method"]["enum"] != ["thread/fork"]
    ]
    assert drift(pinned(), used(schema)) == []


def test_the_command_tells_what_changed_in_another_cli_and_fails(schema: Schema, tmp_path: Path) -> None:
    renamed_field(schema)
    program = cli_with(tmp_path, schema)
    done = command(program)
    assert done.stdout.splitlines() == [
        f"{program}: of what is used of its protocol, 1 has changed",
        "  item/agentMessage/delta.delta: no longer string",
    ]
    assert done.returncode == 1


@pytest.mark.parametrize("schema_of", [{}, [], {"definitions": {"v2": {}}}], ids=["empty", "list", "hollow"])
def test_what_is_no_schema_of_the_protocol_is_one_line_and_exit_3(tmp_path: Path, schema_of: Any) -> None:
    done = command(cli_with(tmp_path, schema_of))
    assert done.returncode == 3
    assert done.stderr.endswith("it is no schema of the app-server's protocol\n")
    assert len(done.stderr.splitlines()) == 1


def test_a_program_that_writes_no_schema_is_one_line_and_exit_3() -> None:
    done = command("/bin/true")
    assert done.returncode == 3
    assert done.stderr == (
        "codex-completions: /bin/true writes no schema of its protocol (exit code 0): is it a Codex CLI?\n"
    )


if __name__ == "__main__":
    PINNED.write_text(written(used(protocol_schema(resolve(None)))))
