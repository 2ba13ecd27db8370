"""What the scheduler tells whoever watches it. The default hears nothing."""

from __future__ import annotations

from scheduler.model import Job, Outcome


class SchedulerObserver:
    """Override what you want to hear. Called synchronously: must neither wait nor raise."""

    def job_rejected(self, job: Job, reason: str) -> None:
        """A job was turned away at the door: `queue_full`, `too_much_text` or `draining`."""

    def turn_started(self, job: Job, waited_s: float) -> None:
        """A job got its seat."""

    def ticket_settled(self, job: Job, outcome: Outcome, waited_s: float, ran_s: float) -> None:
        """A job has its outcome, after `waited_s` in the backlog and `ran_s` on a seat."""
