"""What the scheduler tells whoever watches it. The default hears nothing."""

from __future__ import annotations

from pool.events import TurnEnd
from pool.stimuli import Lease
from scheduler.model import Job, Outcome


class SchedulerObserver:
    """Override what you want to hear. Called synchronously: must neither wait nor raise."""

    def job_admitted(self, job: Job, *, waits: bool) -> None:
        """A job was taken: it waits or runs, and will have an outcome."""

    def job_rejected(self, job: Job, reason: str) -> None:
        """A job was turned away at the door.

        `draining`, `penalized`, `not_ready`, `tenant_queue_full`, `queue_full`, `too_much_text` or `wait_too_long`.
        """

    def turn_started(self, job: Job, lease: Lease, attempt: int, waited_s: float) -> None:
        """A job got a seat, `waited_s` after its submission; attempts count from 1."""

    def turn_spoke(self, job: Job, attempt: int) -> None:
        """The first event of a job has reached its client's buffer."""

    def turn_returned(self, job: Job, lease: Lease, attempt: int, reason: str, rest_s: float) -> None:
        """A job lost its turn without a trace, and waits in front: the fault's kind, or `quarantined`. For `rest_s`
        others go before it.
        """

    def turn_ended(self, job: Job, end: TurnEnd) -> None:
        """A turn of a job is over, whatever has become of the job."""

    def ticket_settled(self, job: Job, outcome: Outcome, waited_s: float, ran_s: float, attempts: int) -> None:
        """A job has its outcome, `waited_s + ran_s` after its submission; `ran_s` is its last turn's part."""

    def limit_changed(self, profile: str, limit: int | None) -> None:
        """At most so many turns of this profile run at once from now on; None: as many as there are seats."""
