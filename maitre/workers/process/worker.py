"""A worker: accepts one claim at a time, from any thread; executes it on the main thread."""

import logging
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from maitre.workers.checkpoints import CheckpointStore
from maitre.workers.leases import LEASE_S, PREEMPTED, LeaseLost, LeaseStore
from maitre.workers.pool.protocol import Claim, ClaimView, WorkerState, WorkerView
from maitre.workers.process.claimed_run import (
    ClaimedRun,
    Execute,
    Help,
    LeaseGuard,
    release_nothing,
)
from maitre.workers.process.metrics import WorkerMetrics
from maitre.workers.process.run_context import RunContext, TuningInputs, use_context

if TYPE_CHECKING:
    from maitre.tuning.workers import Workers

STOP_GRACE_S = 15.0
"""How long a run that is to stop may take to reach its next step before it is interrupted."""


class BusyError(RuntimeError):
    """The worker cannot take a claim now; the message says why."""


class NoSuchClaimError(LookupError):
    """The worker does not hold that claim."""


class Worker:
    """One base model, one run at a time. Any thread may call any method except `serve`."""

    def __init__(
        self,
        name: str,
        base_model: str,
        execute: Execute,
        leases: LeaseStore,
        checkpoints: CheckpointStore,
        log: logging.Logger,
        help_run: Help | None = None,
        release_slots: Callable[[str], None] = release_nothing,
    ) -> None:
        self.name = name
        self.base_model = base_model
        self.metrics = WorkerMetrics(base_model)
        self._execute = execute
        self._leases = leases
        self._checkpoints = checkpoints
        self._log = log
        self._help_run = help_run
        self._release_slots = release_slots
        self._lock = threading.Lock()
        self._inbox: SimpleQueue[ClaimedRun | None] = SimpleQueue()
        self._claimed: ClaimedRun | None = None
        self._last: ClaimView | None = None
        self._state: WorkerState = "loading"
        self._started_s = self._since_s = time.time()
        self._load_s: dict[str, float] = {}
        self._drop_interrupt: Callable[[], object] = lambda: None

    def ready(self, load_s: dict[str, float]) -> None:
        """Take claims from now on: the model is loaded, in these seconds by stage."""
        self._load_s = load_s
        self.metrics.loaded(load_s)
        with self._lock:
            if self._state == "loading":
                self._set_state(state="idle")

    def view(self) -> WorkerView:
        """Return the worker's state as it reports it."""
        with self._lock:
            claim = self._claimed.view() if self._claimed else None
            return WorkerView(
                self.name,
                self.base_model,
                self._state,
                self._since_s,
                self._started_s,
                claim,
                self._last,
                self._load_s,
            )

    def claim(self, claim: Claim) -> None:
        """Take a run; raise `BusyError` when there is one already, or while loading or draining."""
        with self._lock:
            if self._claimed is not None and self._claimed.claim.attempt == claim.attempt:
                return
            if self._state != "idle":
                raise BusyError(f"{self.name} is {self._state}")
            self._claimed = ClaimedRun(claim)
            self._claimed.progress.mark("claimed")
            self._set_state(state="busy")
            self._inbox.put(self._claimed)

    def cancel(self, attempt: str) -> None:
        """Cancel the run at its next step, with Dagster's own interrupt.

        A run that has not started here needs no interrupt: its status says that it is canceling.
        """
        with self._lock:
            run = self._claimed_by(attempt)
            if run.claim.rank > 0:
                run.stop.set()
            elif run.started:
                self._interrupt()

    def preempt(self, attempt: str, reason: str = PREEMPTED) -> None:
        """Release the run at its next step, with its checkpoint; another worker resumes it."""
        with self._lock:
            run = self._claimed_by(attempt)
            if run.given_up is not None or run.stop.is_set():
                return
            run.stop_reason = reason
            run.stop.set()
            if run.claim.rank > 0:
                # A helper has no checkpoint: it leaves the group at its next sum.
                return
        threading.Thread(target=self._give_up, args=(run, reason), daemon=True).start()

    def drain(self, preempt: bool = True) -> None:
        """Take no more claims; end when the current run, if any, is released or over."""
        with self._lock:
            if self._state != "draining":
                self._set_state(state="draining")
                self._inbox.put(None)
            run = self._claimed
        if run is not None and preempt:
            # The run may be over by now.
            with suppress(NoSuchClaimError):
                self.preempt(run.claim.attempt, "its worker is drained")

    def serve(self, drop_interrupt: Callable[[], object] = lambda: None) -> None:
        """Execute claimed runs until drained. Call it on the main thread: Dagster interrupts that.

        `drop_interrupt` drops an interrupt that was captured and not raised yet.
        """
        self._drop_interrupt = drop_interrupt
        threading.Thread(target=self._renew_leases, daemon=True).start()
        while (run := self._inbox.get()) is not None:
            self._run(run)

    def _run(self, run: ClaimedRun) -> None:
        claim = run.claim
        started_s = time.monotonic()
        if claim.rank > 0:
            self._finish(run, self._take_part(run), time.monotonic() - started_s)
            return
        end = "broken"
        try:
            with self._lock:
                run.started = True
            with use_context(self._context_of(run)):
                self._execute(
                    claim.run_id,
                    resume=claim.resume,
                    before_write=self._guard(run).check,
                )
            self._guard(run).end()
            self._checkpoints.remove(claim.run_id)
            end = "finished"
        except LeaseLost as lost:
            end = "preempted" if run.given_up else "lost"
            self._log.warning("run %s: %s", claim.run_id, lost)
        except Exception:
            self._log.exception("run %s broke outside of its steps", claim.run_id)
            run.given_up = "broke outside of its steps; see its worker's log"
        finally:
            self._finish(run, end, time.monotonic() - started_s)

    def _take_part(self, run: ClaimedRun) -> str:
        """Take the steps of a run that another worker executes; return how that ended."""
        run.progress.phase = "helping"
        try:
            assert self._help_run is not None
            self._help_run(run.claim, is_leaving=run.stop.is_set)
        except BaseException as error:
            self._log.warning("left run %s: %s", run.claim.run_id, error)
            return "left"
        return "helped"

    def _context_of(self, run: ClaimedRun) -> RunContext:
        """Return what the run's op sees, with the checkpoint of the worker before, if any."""
        claim = run.claim
        checkpoint = self._checkpoints.prepare(claim.run_id, claim.number)
        guard = self._guard(run)
        copy_checkpoint = self._checkpoints.copier(claim.run_id, claim.number, guard.check)

        def check_lease() -> None:
            copy_checkpoint()
            # When the result is being stored, that is finished first.
            if run.stop.is_set() and run.progress.phase != "registering":
                run.given_up = run.given_up or run.stop_reason
            guard.check()

        lead = self._group_leader(run, checkpoint) if claim.size > 1 else None
        return RunContext(run.progress, run.stop, check_lease, checkpoint, copy_checkpoint, lead)

    def _group_leader(
        self, run: ClaimedRun, checkpoint: Path
    ) -> "Callable[[TuningInputs], AbstractContextManager[Workers]]":
        """Return the function that forms the group of a run that several workers hold."""
        claim = run.claim

        def give_up(reason: str) -> NoReturn:
            run.given_up = run.given_up or reason
            raise LeaseLost(reason)

        def form_group(inputs: TuningInputs) -> "AbstractContextManager[Workers]":
            from maitre.workers.process.group import lead

            lease = self._leases.current(claim.run_id)
            url = lease.url if lease is not None else ""
            return lead(
                inputs,
                address=urlsplit(url).hostname or "127.0.0.1",
                size=claim.size,
                checkpoint=checkpoint,
                publish=partial(self._leases.publish_meeting, claim.run_id, claim.attempt),
                give_up=give_up,
            )

        return form_group

    def _finish(self, run: ClaimedRun, end: str, busy_s: float) -> None:
        if run.given_up:
            # Another worker may take the run only now, when nothing of it executes here any more.
            self._guard(run).release(run.given_up, self._release_slots)
        with self._lock:
            run.started = False
            # `_interrupt` is called with the lock held. A cancel that came after the end of the
            # run (while its checkpoint was removed, for example) is captured by now. It must not
            # hit the next run.
            self._drop_interrupt()
            run.progress.mark("free")
            self._last = run.view()
            self._claimed = None
            if self._state == "busy":
                self._set_state(state="idle")
        self.metrics.claim_ended(end, busy_s)

    def _give_up(self, run: ClaimedRun, reason: str) -> None:
        """Wait for the next checkpoint, or for a result to be stored; then interrupt the run."""
        until_s = time.monotonic() + STOP_GRACE_S
        while run.progress.phase in ("tuning", "registering") and time.monotonic() < until_s:
            if self._claimed is not run:
                return
            time.sleep(0.02)
        with self._lock:
            if self._claimed is run:
                run.given_up = reason
                if run.started:
                    self._interrupt()

    def _guard(self, run: ClaimedRun) -> LeaseGuard:
        return LeaseGuard(self._leases, run, self._log)

    def _renew_leases(self) -> None:
        while True:
            time.sleep(LEASE_S / 3)
            run = self._claimed
            if run is not None and run.claim.rank == 0:
                self._guard(run).renew()

    def _claimed_by(self, attempt: str) -> ClaimedRun:
        if self._claimed is None or self._claimed.claim.attempt != attempt:
            raise NoSuchClaimError(f"{self.name} does not hold attempt {attempt}")
        return self._claimed

    def _set_state(self, state: WorkerState) -> None:
        self._state = state
        self._since_s = time.time()

    @staticmethod
    def _interrupt() -> None:
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
