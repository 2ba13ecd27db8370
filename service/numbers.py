"""Everything that is counted, by name: docs/metrics.md is made of this.

Labels are from closed sets: what is configured (profiles, models, keys), and words of ours.
"""

from __future__ import annotations

from service.metrics import About, Metrics

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)


class Numbers(Metrics):
    """The metrics of one service, by what they are about."""

    def __init__(self) -> None:
        super().__init__()
        self._of_requests()
        self._of_queues()
        self._of_turns()
        self._of_seats()
        self._of_workers()
        self._of_the_store()
        self._of_usage()
        self._of_traces()
        self._of_the_service()

    def _of_requests(self) -> None:
        self.requests = self.counter(
            "http_requests",
            About("requests", "answered, 499 for a client that left", "traffic; look at the status"),
            "route",
            "status",
        )
        self.request_s = self.histogram(
            "http_request_seconds",
            About("seconds", "from the head to the end of the answer", "longer answers, or waiting"),
            "route",
            bounds=_SECONDS,
        )
        self.errors = self.counter(
            "http_errors",
            About(
                "requests",
                "answered with an error, by its `code`; not those that failed when their answer had begun",
                "the code says whose fault it is",
            ),
            "route",
            "code",
        )
        self.first_token_s = self.histogram(
            "first_token_seconds",
            About("seconds", "from the request to its first text", "waiting, a slow provider, or busy workers"),
            "profile",
            bounds=_SECONDS,
        )
        self.relay_s = self.histogram(
            "relay_delay_seconds",
            About(
                "seconds",
                "from an answer's first event to the moment in which whoever writes it to the client may go on",
                "a busy machine: every delta is as late",
            ),
            bounds=_SHORT,
        )
        self.fetch_s = self.histogram(
            "image_fetch_seconds",
            About("seconds", "to fetch an image for a request, or to find that it cannot be had", "slow web servers"),
            bounds=_SECONDS,
        )
        self.cut = self.counter(
            "slow_clients_cut",
            About(
                "clients",
                "that were cut off: their `buffer` was full, or a `write` took too long",
                "clients that stop reading, or a bad network",
            ),
            "reason",
        )

    def _of_queues(self) -> None:
        self.admissions = self.counter(
            "admissions",
            About(
                "jobs",
                "at the door: `run` at once, in the `queue`, or `reject` and why (`draining`, `penalized`, `not_ready`,"
                " `tenant_queue_full`, `queue_full`, `too_much_text`, `wait_too_long`)",
                "reject: overload, one key too eager, or a drain",
            ),
            "profile",
            "decision",
            "reason",
        )
        self.fallbacks = self.counter(
            "fallbacks",
            About(
                "jobs",
                "that another profile took after this one refused; the reason is the refusal's `code`",
                "this profile is full, slow or down",
            ),
            "profile",
            "reason",
        )
        self.wait_s = self.histogram(
            "queue_wait_seconds",
            About(
                "seconds",
                "from submission to a seat (`served`), or to the end without one (`refused`, `left`)",
                "too few seats",
            ),
            "profile",
            "end",
            bounds=_SECONDS,
        )
        self.waiting = self.gauge(
            "jobs_waiting", About("jobs", "without a seat, now", "overload"), "profile", "priority"
        )
        self.running = self.gauge("jobs_running", About("jobs", "with a seat, now", "traffic"), "profile")
        self.tenant_running = self.gauge(
            "tenant_running", About("turns", "now; the names of keys", "one key takes it all"), "tenant"
        )
        self.oldest_s = self.gauge(
            "oldest_wait_seconds", About("seconds", "how long the oldest job has waited, now", "overload"), "profile"
        )
        self.predicted_s = self.gauge(
            "predicted_wait_seconds",
            About("seconds", "what a new standard job would wait", "above `queue_budget_s` jobs are refused"),
            "profile",
        )
        self.overloaded = self.gauge(
            "codel_overloaded",
            About("0 or 1", "waits stay over `codel_target_s`", "too few seats; jobs are shed"),
            "profile",
        )
        self.retry_tokens = self.gauge(
            "retry_tokens",
            About("turns", "that may be run again now", "it falls: many turns are lost; at 0 they fail"),
            "profile",
        )
        self.marked = self.gauge(
            "poison_marks",
            About("jobs", "open ones that have crashed a worker", "requests that crash workers"),
            "profile",
        )
        self.buffered = self.gauge(
            "stream_buffer_bytes",
            About("bytes", "of the answer that waits most for its reader, now", "a client that does not read"),
            "profile",
        )

    def _of_turns(self) -> None:
        self.turns = self.counter(
            "turns",
            About(
                "tickets",
                "how tickets ended: a finish, a fault, or why there was no turn",
                "anything but `stop`, `length`, `tool_calls` deserves a look",
            ),
            "profile",
            "outcome",
        )
        self.turn_s = self.histogram(
            "turn_seconds",
            About("seconds", "from the seat to the outcome", "longer answers, or a slow provider"),
            "profile",
            bounds=_SECONDS,
        )
        self.start_s = self.histogram(
            "turn_start_seconds",
            About("seconds", "from the seat to the worker's word that the turn has begun", "busy workers"),
            "profile",
            bounds=_SHORT,
        )
        self.token_s = self.histogram(
            "output_token_seconds",
            About(
                "seconds",
                "from an answer's first event to its end, for each token after the first",
                "a slow provider",
            ),
            "profile",
            bounds=_TOKEN,
        )
        self.tokens = self.counters(
            "tokens",
            About(
                "tokens",
                "as the provider counted them, of every turn, by the name of the model and of the key;"
                " `cached_input` and `reasoning_output` are parts of `input` and `output`",
                "traffic, longer prompts",
            ),
            "profile",
            "model",
            "tenant",
            "kind",
            words=("input", "cached_input", "output", "reasoning_output"),
        )
        self.returned = self.counter(
            "redispatches",
            About(
                "turns",
                "lost without a trace, whose jobs wait again: a fault, or `quarantined`",
                "workers that die or fail; for `upstream_...` and `rate_limit_exceeded`, the provider",
            ),
            "profile",
            "reason",
        )
        self.redispatched = self.counter(
            "redispatched",
            About(
                "jobs",
                "that had several turns, by how they ended",
                "anything but answers: what fails is not the worker",
            ),
            "profile",
            "outcome",
        )

    def _of_seats(self) -> None:
        self.seats = self.gauge("seats", About("seats", "of workers in service, now"), "profile")
        self.seats_free = self.gauge(
            "seats_free", About("seats", "without a turn, now", "0 for long: too few"), "profile"
        )
        self.seats_limit = self.gauge(
            "seats_limit",
            About(
                "seats",
                "that may be used at once, where there is such a limit",
                "it falls: the provider or a worker says that it is too much",
            ),
            "profile",
        )
        self.worker_turns = self.gauge(
            "worker_turns",
            About("turns", "that hold a seat of the workers of this place, now", "uneven: workers that do not let go"),
            "profile",
            "slot",
        )

    def _of_workers(self) -> None:
        self.workers = self.gauge("workers", About("workers", "now"), "profile", "state")
        self.outdated = self.gauge(
            "workers_outdated", About("workers", "of an earlier configuration, now", "a reload is under way"), "profile"
        )
        self.rss = self.gauge(
            "worker_rss_bytes",
            About("bytes", "of the largest worker", "it is replaced at `retire.max_rss_bytes`"),
            "profile",
        )
        self.unread = self.gauge(
            "worker_unread_bytes",
            About("bytes", "written to the worker that reads least, and not read, now", "a worker that does not read"),
            "profile",
        )
        self.broken = self.gauge(
            "breaker_open",
            About("0 or 1", "boots fail so often that few are tried", "the CLI, its configuration or the machine"),
            "profile",
        )
        self.panic = self.gauge(
            "panic",
            About("0 or 1", "so many workers look sick that none is judged", "the machine, or we ourselves"),
            "profile",
        )
        self.boots = self.counter(
            "worker_boots",
            About("boots", "boots that became ready or failed", "failed: the CLI, its configuration or the machine"),
            "profile",
            "result",
        )
        self.boot_s = self.histogram(
            "worker_boot_seconds",
            About("seconds", "from spawn to the answered handshake", "a busy machine"),
            "profile",
            bounds=_SECONDS,
        )
        self.exits = self.counter(
            "worker_exits",
            About("processes", "ended; a signal is negative, `none` was never started", "outside a drain: crashes"),
            "profile",
            "code",
        )
        self.transitions = self.counter(
            "worker_transitions",
            About(
                "changes",
                "worker state changes; the reasons that matter are told apart (`profile_changed`, `turns`, `age`,"
                " `memory`, `interrupt_ignored`, `silent`, `unread`, `poisoned`, `failing`, `nonsense`, `ended`,"
                " `not_needed`, `stopping`, `operator`), all others are `other`",
                "to `quarantined`: sick workers",
            ),
            "profile",
            "source",
            "target",
            "reason",
        )
        self.quarantine_s = self.histogram(
            "quarantine_seconds",
            About("seconds", "from a verdict to the worker's end", "long turns on condemned workers"),
            "profile",
            bounds=_SECONDS,
        )
        self.probe_s = self.histogram(
            "probe_seconds",
            About("seconds", "from a round of probes to its last answer", "a busy machine, or busy workers"),
            "profile",
            bounds=_SHORT,
        )
        self.misses = self.counter(
            "probes_missed",
            About("probes", "that workers did not answer in time", "a busy machine, or sick workers"),
            "profile",
        )
        self.strikes = self.counter(
            "strikes", About("turns", "that could not begin for want of an answer", "sick workers"), "profile"
        )
        self.crash_marks = self.counter(
            "crash_marks",
            About("marks", "given to jobs for crashes of workers that they may have caused", "crashes"),
            "profile",
        )
        self.frames = self.counter(
            "frames",
            About(
                "lines",
                "from workers: all (`frames`), and oddities (`late`, `unmatched`, `garbage`, `oversized`, `stale`,"
                " `unknown`, `malformed`, `declined`)",
                "oddities: a CLI that changed, or a sick worker",
            ),
            "profile",
            "kind",
        )

    def _of_the_store(self) -> None:
        self.store_operations = self.counter(
            "store_operations",
            About(
                "calls",
                "of the store of answers: `stored`, `found`, `unknown`, or why not: `waiting_full`, `slow`,"
                " `disk_full`, `corrupt`, `locked`, `io`, `closed`, `failed`",
                "any of the latter: answers are not kept; look at the disk",
            ),
            "operation",
            "result",
        )
        self.store_s = self.histogram(
            "store_operation_seconds",
            About(
                "seconds", "what a caller of the store waited", "a slow disk; above `store.timeout_s` it is given up"
            ),
            "operation",
            bounds=_SHORT,
        )
        self.unkept = self.counter(
            "answers_not_stored",
            About(
                "answers",
                "that were to be stored, and are not",
                "they cannot be retrieved or continued; see `store_operations` and `store_up`",
            ),
        )
        self.evicted = self.counter(
            "store_evicted",
            About(
                "answers",
                "removed: their `age`, or more than the `count` or `bytes` allowed",
                "`count`, `bytes`: answers are kept for less than `store.max_age_s`",
            ),
            "reason",
        )
        self.moved_aside = self.counter(
            "store_moved_aside",
            About(
                "files",
                "that were damaged, and replaced by an empty one",
                "the disk, or somebody who writes into the file",
            ),
        )
        self.store_up = self.gauge(
            "store_up",
            About("0 or 1", "answers can be stored", "0: they are not, and nothing else fails; the log says why"),
        )
        self.store_responses = self.gauge("store_responses", About("answers", "stored, now"))
        self.store_bytes = self.gauge(
            "store_bytes", About("bytes", "what they take, now", "at `store.max_bytes` the oldest go")
        )
        self.store_waiting = self.gauge(
            "store_waiting_bytes",
            About(
                "bytes",
                "that wait to be written, now",
                "a slow disk; at `store.max_waiting_bytes` answers are not stored",
            ),
        )
        self.background = self.gauge(
            "background_jobs",
            About(
                "responses",
                "background responses that wait or run, now",
                "at `background.max_jobs` more are refused",
            ),
        )

    def _of_traces(self) -> None:
        self.traces = self.counter(
            "traces",
            About("requests", "whose frames went into a file (`written`) or should have (`lost`)", "lost: the disk"),
            "result",
        )
        self.traces_pruned = self.counter(
            "traces_pruned",
            About(
                "files",
                "removed: their `age`, or more than the `count` allowed",
                "`count`: more is traced than is kept",
            ),
            "reason",
        )
        self.trace_files = self.gauge(
            "trace_files", About("files", "of traced requests, now", "somebody is looking for something")
        )

    def _of_usage(self) -> None:
        self.usage = self.counter(
            "usage_records",
            About(
                "requests",
                "that were served, and whose usage was recorded (`stored`) or was not (`lost`)",
                "lost: `/v1/usage` tells too little; see `usage_up`",
            ),
            "result",
        )
        self.usage_up = self.gauge(
            "usage_up",
            About(
                "0 or 1",
                "usage can be recorded",
                "0: 20,000 requests wait for it, more are lost; the log says why",
            ),
        )

    def _of_the_service(self) -> None:
        self.stalls = self.counter(
            "monitor_clock_resets",
            About(
                "pauses",
                "of our own, over a second; no worker was judged for them",
                "a busy machine, or something that blocks",
            ),
        )
        self.lag_s = self.histogram(
            "loop_lag_seconds",
            About(
                "seconds",
                "how late a timer fires that is due four times a second",
                "a busy machine, or something that blocks",
            ),
            bounds=_SHORT,
        )
        self.draining = self.gauge("draining", About("0 or 1", "no new work is taken", "a stop is under way"))
        self.acted = self.counter(
            "admin_actions",
            About(
                "actions",
                "of operators: `done`, or the code of what was in the way",
                "somebody is at work; the log has who and what",
            ),
            "action",
            "outcome",
        )
        self.maintenance = self.gauge(
            "maintenance",
            About(
                "0 or 1",
                "maintenance is on, on some routes or all",
                "an operator, the configuration or a file; see the log",
            ),
        )
        self.generation = self.gauge(
            "config_generation",
            About("number", "which configuration is in force; the first is 1", "reloads"),
        )
        self.reload_failures = self.counter(
            "config_reload_failures",
            About("reloads", "that changed nothing", "a wrong file; the log says what is wrong"),
        )
        self.unsaid = self.counter(
            "log_lines_dropped",
            About(
                "lines",
                "of the log that were not written: they said what others had said just before, or `stderr` took none",
                "something fails again and again, or nobody reads the log",
            ),
            "event",
        )
        self.bugs = self.counter(
            "bugs", About("exceptions", "our own, caught at a boundary", "report it, with the log line"), "where"
        )
        self.info = self.gauge("build_info", About("1", "always; the label says what runs"), "version")
