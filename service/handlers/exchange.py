"""One question and its answers, whatever the route: what is the same of them all on their way to a client."""

from __future__ import annotations

from aiohttp import web
from msgspec.structs import replace

from service import tiers
from service.api.headers import MODE_HEADER, PRIORITY_APPLIED_HEADER
from service.api.question import Question
from service.encode.choice import Choice, call_counts
from service.encode.terms import Terms
from service.handlers.answer import Reply, Voices
from service.handlers.asking import Asked, check_route, submit
from service.routing import Route
from service.state import FACTS, HEADERS, SERVICE, Configuration
from service.toolcalls.mode import output_mode
from service.translate import to_turn

IGNORED_HEADER = "x-codex-ignored-params"
USAGE_HEADER = "x-codex-usage"
STOP_MODE_HEADER = "x-codex-stop-after-tools-mode"
CALL_COUNT_HEADER = "x-codex-tool-call-count"
CALLS_TRUNCATED_HEADER = "x-codex-tool-call-truncated"


class Exchange:
    """`ask` for each answer that is wanted, read them from `voices`, write them with `reply`; `close` it in any case.

    With `keeps` an answer is needed once more when it has ended. With `shows_reasoning` it has its reasoning, too, and
    with `reasoning_items` in a form that may be sent back. `tier` is OpenAI's word for how it is served.
    """

    def __init__(
        self,
        request: web.Request,
        asked: Asked,
        current: Configuration,
        question: Question,
        route: Route,
        *,
        keeps: bool,
        shows_reasoning: bool = False,
        reasoning_items: bool = False,
    ) -> None:
        tenant, tools = asked.tenant, current.settings.tools
        self.settings = current.settings
        self._service = request.app[SERVICE]
        self._tenant = tenant
        mode = output_mode(asked.mode or tools.mode, request.headers, question.messages)
        request[HEADERS] = {MODE_HEADER: str(mode), STOP_MODE_HEADER: tools.stop_mode}
        self._terms = Terms.of(
            question, keeps=keeps, shows_reasoning=shows_reasoning, mode=mode, controls=tools.controls
        )
        wanted = asked.wanted or tiers.WANTED.get(question.service_tier or "auto")
        priority = tenant.allowed(wanted or route.priority or tenant.priority)
        self.tier = tiers.NAMES[priority]
        plan = current.routes.plan(route, tenant.name)
        check_route(question, route, plan[0])
        request[FACTS].update(model=route.public, profile=plan[0].profile, stream=question.stream, priority=priority)
        turn = to_turn(question, model=plan[0].model, effort=route.effort, reasoning_items=reasoning_items)
        self._job = asked.job(
            turn, route, plan[0], size=question.prompt_chars, media=question.media_chars, priority=priority
        )
        self._plan = plan
        self.voices = Voices(self._service)
        self.reply = Reply(request, self.voices, current.settings.server)
        if question.ignored:
            self.reply.headers[IGNORED_HEADER] = ", ".join(question.ignored)
        if wanted is not None and wanted is not priority:
            self.reply.headers[PRIORITY_APPLIED_HEADER] = priority

    def ask(self) -> None:
        """For one more answer.

        Raises:
            ApiError: the scheduler did not take the job.
        """
        number = len(self.voices.choices)
        job = self._job if number == 0 else replace(self._job, id=f"{self._job.id}.{number}")
        self.voices.add(submit(self._service, job, self._plan, self._tenant), Choice(self._terms, number))

    async def send(self, body: bytes, *, is_estimate: bool) -> web.Response:
        """A whole answer, with what its headers tell of it."""
        count, is_truncated = call_counts(self.voices.choices)
        self.reply.headers[CALL_COUNT_HEADER] = str(count)
        self.reply.headers[CALLS_TRUNCATED_HEADER] = "true" if is_truncated else "false"
        if is_estimate:
            self.reply.headers[USAGE_HEADER] = "estimated"
        return await self.reply.send(body)

    def close(self) -> None:
        """Nobody reads on."""
        self.reply.note_end()
