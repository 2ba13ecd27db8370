"""The tables in docs/ that code knows better. `python -m tests.test_docs` writes them anew."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pool.worker_state import transition_table
from service.admin.actions import ACTIONS
from service.admin.api import QUESTIONS
from service.api.errors import ACTED, FAULTS, INTERRUPTED, OUTCOMES, REJECTIONS
from service.numbers import Numbers
from service.settings import Settings, load
from tests.parity import verdicts
from tests.parity.replay import exchanges

DOCS = Path(__file__).parents[1] / "docs"


def settings_tables() -> str:
    """One table per group of settings."""
    schema = Settings.model_json_schema()
    definitions: dict[str, Any] = schema["$defs"]
    groups = [
        ("Top level", schema),
        ("`[server]`", definitions["ServerSettings"]),
        ("`[log]`", definitions["LogSettings"]),
        ("`[tools]`", definitions["ToolSettings"]),
        ("`[store]`", definitions["StoreSettings"]),
        ("`[usage]`", definitions["UsageSettings"]),
        ("`[trace]`", definitions["TraceSettings"]),
        ("`[background]`", definitions["BackgroundSettings"]),
        ("`[images]`", definitions["ImageSettings"]),
        ("`[admin]`", definitions["AdminSettings"]),
        ("`[[admin.keys]]`", definitions["AdminKeySettings"]),
        ("`[maintenance]`", definitions["MaintenanceSettings"]),
        ("`[[keys]]`", definitions["KeySettings"]),
        ("`[profiles.NAME]`", definitions["ProfileSettings"]),
        ("`[profiles.NAME.limits]`, in seconds", definitions["LimitSettings"]),
        ("`[profiles.NAME.probes]`", definitions["ProbeSettings"]),
        ("`[profiles.NAME.retire]`", definitions["RetireSettings"]),
        ("`[models.NAME]`", definitions["RouteSettings"]),
        ("One of `targets` in `[models.NAME]`", definitions["TargetSettings"]),
    ]
    return "\n\n".join(f"## {title}\n\n{_table(group)}" for title, group in groups)


def _table(group: dict[str, Any]) -> str:
    rows = ["| Name | Default | Bounds | Meaning |", "|---|---|---|---|"]
    for name, field in group["properties"].items():
        if "$ref" in field or field.get("type") == "object" or ("items" in field and "$ref" in field["items"]):
            continue
        default = "required" if name in group.get("required", ()) else f"`{field.get('default')}`"
        default = default.replace("`None`", "unset").replace("``", "empty")
        rows.append(f"| `{name}` | {default} | {_bounds(field)} | {field.get('description', '')} |")
    return "\n".join(rows)


def _bounds(field: dict[str, Any]) -> str:
    variants = [field, *field.get("anyOf", ())]
    for variant in variants:
        low = variant.get("minimum", variant.get("exclusiveMinimum"))
        high = variant.get("maximum")
        if low is not None or high is not None:
            above = "over " if "exclusiveMinimum" in variant else ""
            return f"{above}{low} to {high}" if high is not None else f"{above or 'from '}{low}"
        if "enum" in variant:
            return ", ".join(variant["enum"])
    return ""


def error_table() -> str:
    """How it is told that a job was not taken, did not get to its end, or failed."""
    rows = ["| Status | `type` | `code` | `retryable` | Message |", "|---|---|---|---|---|"]
    for row in (*REJECTIONS.values(), *OUTCOMES.values(), INTERRUPTED, *FAULTS.values(), ACTED):
        retryable = {True: "true", False: "false", None: "not known"}[row.retryable]
        message = f"the provider's own words, or: {row.message}" if row.quoted else row.message
        rows.append(f"| {row.status} | `{row.type}` | `{row.code}` | {retryable} | {message} |")
    return "\n".join(rows)


def admin_table() -> str:
    """What operators can ask and do."""
    rows = ["| Request | Fields | What |", "|---|---|---|"]
    rows += [f"| `GET {_plain(path)}` | | {text} |" for path, text in QUESTIONS.items()]
    for action in ACTIONS.values():
        fields = ", ".join(f"`{name}`" for name in action.fields)
        rows.append(f"| `{action.method} {_plain(action.path)}` | {fields} | {action.text} |")
    return "\n".join(rows)


def _plain(path: str) -> str:
    kind = next((kind for kind in ("WORKER", "PROFILE", "KEY", "MODEL") if f"/{kind.lower()}s/" in path), "REQUEST")
    return re.sub(r"\{.*[+]\}", kind, path)


def predecessor_tables() -> str:
    """What was kept of the predecessor's answers, what was not, and what is no difference."""
    answers = exchanges()
    parts = (
        ("Kept and changed", verdicts.summary(answers)),
        ("Changed on purpose", verdicts.changes(answers)),
        ("No difference", verdicts.rules()),
    )
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in parts)


def metrics_table() -> str:
    """Every metric, in the order of a scrape."""
    rows = ["| Metric | Kind | Unit | Labels | Meaning | When it rises |", "|---|---|---|---|---|---|"]
    for family in Numbers().families:
        unit, meaning, rise = family.about
        rows.append(f"| `{family.name}` | {family.kind} | {unit} | {', '.join(family.labels)} | {meaning} | {rise} |")
    return "\n".join(rows)


def rendered(page: str, marker: str, text: str) -> str:
    """The page with `text` between the marker and its end."""
    block = f"<!-- {marker} -->\n\n{text}\n\n<!-- end -->"
    return re.sub(rf"<!-- {marker} -->(.*?<!-- end -->)?", lambda _: block, page, flags=re.DOTALL)


TABLES = {
    "architecture.md": ("worker-states", transition_table),
    "configuration.md": ("settings", settings_tables),
    "api.md": ("faults", error_table),
    "operating.md": ("admin", admin_table),
    "predecessor.md": ("verdicts", predecessor_tables),
    "metrics.md": ("metrics", metrics_table),
}


def test_the_configuration_of_the_upgrade_is_taken(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (DOCS / "upgrading.md").read_text(), flags=re.DOTALL)
    (tmp_path / "new").write_text("\n".join(["[profiles.default]\nanonymous = true", *blocks]))
    settings = load(tmp_path / "new", {})
    assert settings.profiles["next"].codex_bin == Path("/opt/codex/NEW/codex")
    assert [target.weight for target in settings.models["codex-5"].targets] == [95, 5]


def test_the_generated_tables_are_fresh() -> None:
    for name, (marker, table) in TABLES.items():
        page = (DOCS / name).read_text()
        assert table() in page, f"docs/{name} is stale: run python -m tests.test_docs"
        assert rendered(page, marker, table()) == page


def test_a_page_that_names_a_metric_names_one_that_there_is() -> None:
    known = {family.name for family in Numbers().families}
    for page in [DOCS.parent / "README.md", *DOCS.rglob("*.md")]:
        for name in re.findall(r"\bcodex_completions_\w+", page.read_text()):
            assert re.sub("_(bucket|sum|count)$", "", name) in known, f"{page.name} names {name}"


def test_links_between_pages_lead_somewhere() -> None:
    root = DOCS.parent
    for page in [root / "README.md", *DOCS.rglob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


if __name__ == "__main__":
    for name, (marker, table) in TABLES.items():
        path = DOCS / name
        path.write_text(rendered(path.read_text(), marker, table()))
