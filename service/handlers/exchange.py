"""One question and its answers, whatever the route: what is the same of them all on their way to a client."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from aiohttp import web
from msgspec.structs import replace

from scheduler.model import Priority
from service import tiers
from service.admission import Bill, charge
from service.api.errors import ApiError
from service.api.headers import MODE_HEADER, PRIORITY_APPLIED_HEADER
from service.api.question import Question
from service.encode.choice import Choice, call_counts
from service.encode.terms import Terms
from service.encode.usage import estimated_tokens
from service.handlers.accounting import Served, record
from service.handlers.answer import Reply
from service.handlers.asking import Asked, check_route, submit
from service.handlers.voices import Voices
from service.routing import Route
from service.state import FACTS, HEADERS, SERVICE, Configuration, Service
from service.toolcalls.mode import OutputMode, output_mode
from service.translate import to_turn

IGNORED_HEADER = "x-codex-ignored-params"
USAGE_HEADER = "x-codex-usage"
STOP_MODE_HEADER = "x-codex-stop-after-tools-mode"
CALL_COUNT_HEADER = "x-codex-tool-call-count"
CALLS_TRUNCATED_HEADER = "x-codex-tool-call-truncated"


class Wants(NamedTuple):
    """What a route wants of an answer.

    With `keeps` it is needed once more when it has ended. With `shows_reasoning` it has its reasoning, too, and with
    `reasoning_items` in a form that may be sent back. `queue_budget_s` is how long it may wait, as `batch` unless
    it asks for another class; None for as long as others. `is_chat`: it is a chat completion.
    """

    keeps: bool
    is_chat: bool = False
    shows_reasoning: bool = False
    reasoning_items: bool = False
    queue_budget_s: float | None = None


class Inquiry:
    """A question on its way to the scheduler: `ask` for each answer that is wanted, and read them from `voices`.

    `mode` is the form in effect. Whoever has it closes it in the end. `tier` is OpenAI's word for
    how it is served.
    """

    def __init__(
        self,
        service: Service,
        asked: Asked,
        current: Configuration,
        question: Question,
        route: Route,
        *,
        wants: Wants,
        mode: OutputMode,
    ) -> None:
        self._service = service
        self._tenant = asked.tenant
        self._terms = Terms.of(
            question,
            keeps=wants.keeps,
            shows_reasoning=wants.shows_reasoning,
            mode=mode,
            controls=current.settings.tools.controls,
        )
        self.mode = mode
        self.wanted = asked.wanted or tiers.WANTED.get(question.service_tier or "auto")
        is_patient = wants.queue_budget_s is not None
        usual = Priority.BATCH if is_patient else route.priority or asked.tenant.priority
        self.priority = asked.tenant.allowed(self.wanted or usual)
        self.tier = tiers.NAMES[self.priority]
        plan = current.routes.plan(route, asked.tenant.name)
        check_route(question, route, plan[0])
        turn = to_turn(question, model=plan[0].model, effort=route.effort, reasoning_items=wants.reasoning_items)
        self._job = asked.job(
            turn, route, plan[0], size=question.prompt_chars, media=question.media_chars, priority=self.priority
        )
        if wants.queue_budget_s is not None:
            self._job = replace(self._job, queue_budget_s=wants.queue_budget_s, is_patient=True)
        self._plan = plan
        self._trace = asked.trace
        self._question = question
        self._tokens = estimated_tokens(question.prompt_chars) + (question.max_tokens or 0)
        self._bill: Bill | None = None
        self.voices = Voices(service)

    @property
    def profile(self) -> str:
        """Who is asked first."""
        return self._job.profile

    def ask(self, choices: int = 1) -> None:
        """For so many answers.

        Raises:
            ApiError: the key's contract is used up, or the scheduler did not take the job.
        """
        self._bill = charge(self._tenant, choices * self._tokens, _now())
        try:
            for number in range(choices):
                job = self._job if number == 0 else replace(self._job, id=f"{self._job.id}.{number}")
                self.voices.add(submit(self._service, job, self._plan, self._tenant), Choice(self._terms, number))
        except ApiError:
            self.close()
            raise

    def settle(self) -> None:
        """Charge what its answers have taken so far instead of what was expected."""
        if self._bill is not None:
            usage, _ = self.voices.spent()
            self._bill.settle(usage.input_tokens + usage.output_tokens, _now())

    def keep_usage(self, route: str, status: int, seconds: float) -> None:
        """Record it, now that it is over, if anything was asked of anybody."""
        ledger = self._service.ledger
        if ledger is not None and self.voices.choices:
            served = Served(self._job.id, route, status, seconds, self._tenant.name, mode=self.mode)
            ledger.add(record(served, self._question, self.voices, time.time_ns() // 1_000_000))

    def close(self) -> None:
        """Nobody reads on. Harmless once it has been closed."""
        self.voices.abandon()
        self.settle()
        if self._trace is not None:
            about = {"key": self._tenant.name, "model": self._job.model}
            self._trace.end(about | self.voices.facts(), has_failed=self.voices.has_failed)


INQUIRY = web.RequestKey("inquiry", Inquiry)
"""What was asked and is over, if nobody else has taken it on."""


def _now() -> float:
    return asyncio.get_running_loop().time()


class Exchange:
    """An inquiry and the reply to whoever made it: `ask`, read `voices`, write with `reply`; `close` it in any case."""

    def __init__(
        self,
        request: web.Request,
        asked: Asked,
        current: Configuration,
        question: Question,
        route: Route,
        *,
        wants: Wants,
    ) -> None:
        self.settings = current.settings
        self._request = request
        self._facts = request[FACTS]
        tools = current.settings.tools
        usual = tools.mode if wants.is_chat else tools.responses_mode
        mode = output_mode(asked.mode or usual, request.headers, question.messages)
        request[HEADERS] = {MODE_HEADER: str(mode), STOP_MODE_HEADER: tools.stop_mode}
        self.inquiry = Inquiry(request.app[SERVICE], asked, current, question, route, wants=wants, mode=mode)
        self.voices = self.inquiry.voices
        self.tier = self.inquiry.tier
        self._is_handed_over = False
        priority = self.inquiry.priority
        self._facts.update(model=route.public, profile=self.inquiry.profile, stream=question.stream, priority=priority)
        self.reply = Reply(request, current.settings.server)
        if question.ignored:
            self.reply.headers[IGNORED_HEADER] = ", ".join(question.ignored)
        if self.inquiry.wanted not in (None, priority):
            self.reply.headers[PRIORITY_APPLIED_HEADER] = priority

    def ask(self, choices: int = 1) -> None:
        """For so many answers.

        Raises:
            ApiError: the key's contract is used up, or the scheduler did not take the job.
        """
        self.inquiry.ask(choices)

    async def send(self, body: bytes, *, is_estimate: bool) -> web.Response:
        """A whole answer, with what its headers tell of it."""
        count, is_truncated = call_counts(self.voices.choices)
        self.reply.headers[CALL_COUNT_HEADER] = str(count)
        self.reply.headers[CALLS_TRUNCATED_HEADER] = "true" if is_truncated else "false"
        if is_estimate:
            self.reply.headers[USAGE_HEADER] = "estimated"
        self.inquiry.settle()  # before the headers tell what is left
        return await self.reply.send(body)

    def hand_over(self) -> Inquiry:
        """The inquiry, for somebody else to read to its end and to close."""
        self._is_handed_over = True
        return self.inquiry

    def close(self) -> None:
        """Nobody reads on. The log line gets what only the end knows."""
        if not self._is_handed_over:
            self.inquiry.close()
            self._request[INQUIRY] = self.inquiry
        self._facts.update(self.voices.facts())
