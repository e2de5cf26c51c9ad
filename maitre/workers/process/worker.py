"""A worker: takes one claim at a time, from any thread, and runs it on the main thread."""

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

from maitre.workers.leases import LEASE_S, PREEMPTED, PlacementLost, PlacementStore
from maitre.workers.pool.protocol import Claim, ClaimView, WorkerState, WorkerView
from maitre.workers.process.checkpoints import CheckpointStore
from maitre.workers.process.held_run import HeldRun, Told, holding
from maitre.workers.process.hold import Hold
from maitre.workers.process.metrics import WorkerMetrics
from maitre.workers.process.running import Execute, Help, Running, nothing_more

if TYPE_CHECKING:
    from maitre.tuning.workers import Workers

STOP_GRACE_S = 15.0
"""How long a run that is to stop may take to reach its next step, before it is interrupted."""


class BusyError(RuntimeError):
    """The worker cannot take a claim now; the message says why."""


class NoSuchClaimError(LookupError):
    """The worker does not hold that claim."""


class Worker:
    """One base model, one run at a time. All methods but `serve` may be called from any thread."""

    def __init__(
        self,
        name: str,
        base_model: str,
        execute: Execute,
        placements: PlacementStore,
        checkpoints: CheckpointStore,
        log: logging.Logger,
        help_along: Help | None = None,
        let_go: Callable[[str], None] = nothing_more,
    ) -> None:
        self.name = name
        self.base_model = base_model
        self.metrics = WorkerMetrics(base_model)
        self._execute = execute
        self._placements = placements
        self._checkpoints = checkpoints
        self._log = log
        self._help_along = help_along
        self._let_go = let_go
        self._lock = threading.Lock()
        self._inbox: SimpleQueue[Running | None] = SimpleQueue()
        self._running: Running | None = None
        self._last: ClaimView | None = None
        self._state: WorkerState = "loading"
        self._started_s = self._since_s = time.time()
        self._load_s: dict[str, float] = {}
        self._drop_interrupt: Callable[[], object] = lambda: None

    def ready(self, load_s: dict[str, float]) -> None:
        """The model is loaded: take claims from now."""
        self._load_s = load_s
        self.metrics.loaded(load_s)
        with self._lock:
            if self._state == "loading":
                self._enter("idle")

    def view(self) -> WorkerView:
        """The worker as it is now."""
        with self._lock:
            claim = self._running.view() if self._running else None
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
        """Take a run; `BusyError` when there is one already, or while loading or draining."""
        with self._lock:
            if self._running is not None and self._running.claim.attempt == claim.attempt:
                return
            if self._state != "idle":
                raise BusyError(f"{self.name} is {self._state}")
            self._running = Running(claim)
            self._running.progress.mark("claimed")
            self._enter("busy")
            self._inbox.put(self._running)

    def cancel(self, attempt: str) -> None:
        """Cancel the run at its next step, with Dagster's own interrupt.

        One that has not begun here needs none: it is seen to be canceling when it begins.
        """
        with self._lock:
            running = self._held(attempt)
            if running.claim.rank > 0:
                running.stop.set()
            elif running.started:
                self._interrupt()

    def preempt(self, attempt: str, why: str = PREEMPTED) -> None:
        """Give the run up at its next step, with its checkpoint; another worker goes on."""
        with self._lock:
            running = self._held(attempt)
            if running.given_up is not None or running.stop.is_set():
                return
            running.why_stop = why
            running.stop.set()
            if running.claim.rank > 0:
                # It has nothing to hand on: it leaves at the next sum.
                return
        threading.Thread(target=self._give_up, args=(running, why), daemon=True).start()

    def drain(self, preempt: bool = True) -> None:
        """Take nothing more; end when the current run, if any, has been given up or is over."""
        with self._lock:
            if self._state != "draining":
                self._enter("draining")
                self._inbox.put(None)
            running = self._running
        if running is not None and preempt:
            # It may be over by now.
            with suppress(NoSuchClaimError):
                self.preempt(running.claim.attempt, "its worker is drained")

    def serve(self, drop_interrupt: Callable[[], object] = lambda: None) -> None:
        """Run what is claimed until drained. On the main thread: Dagster's interrupts need it.

        `drop_interrupt` forgets one that is captured and not raised yet.
        """
        self._drop_interrupt = drop_interrupt
        threading.Thread(target=self._keep_lease, daemon=True).start()
        while (running := self._inbox.get()) is not None:
            self._run(running)

    def _run(self, running: Running) -> None:
        claim = running.claim
        started_s = time.monotonic()
        if claim.rank > 0:
            self._finish(running, self._help(running), time.monotonic() - started_s)
            return
        end = "broken"
        try:
            with self._lock:
                running.started = True
            with holding(self._held_run(running)):
                self._execute(
                    claim.run_id,
                    resume=claim.resume,
                    before_write=self._hold(running).check,
                )
            self._hold(running).end()
            self._checkpoints.remove(claim.run_id)
            end = "finished"
        except PlacementLost as lost:
            end = "preempted" if running.given_up else "lost"
            self._log.warning("run %s: %s", claim.run_id, lost)
        except Exception:
            self._log.exception("run %s broke outside of its steps", claim.run_id)
            running.given_up = "broke outside of its steps; see its worker's log"
        finally:
            self._finish(running, end, time.monotonic() - started_s)

    def _help(self, running: Running) -> str:
        """Lend the run of another worker this one's steps; how that ended."""
        running.progress.phase = "helping"
        try:
            assert self._help_along is not None
            self._help_along(running.claim, is_leaving=running.stop.is_set)
        except BaseException as error:
            self._log.warning("left run %s: %s", running.claim.run_id, error)
            return "left"
        return "helped"

    def _held_run(self, running: Running) -> HeldRun:
        """The run as its op sees it, with the checkpoint of the worker before, if there was one."""
        claim = running.claim
        checkpoint = self._checkpoints.prepare(claim.run_id, claim.number)
        hold = self._hold(running)
        keep = self._checkpoints.keeper(claim.run_id, claim.number, hold.check)

        def check() -> None:
            keep()
            # A result that is being stored is finished first.
            if running.stop.is_set() and running.progress.phase != "registering":
                running.given_up = running.given_up or running.why_stop
            hold.check()

        lead = self._leads(running, checkpoint) if claim.size > 1 else None
        return HeldRun(running.progress, running.stop, check, checkpoint, keep, lead)

    def _leads(
        self, running: Running, checkpoint: Path
    ) -> "Callable[[Told], AbstractContextManager[Workers]]":
        """Forms the group of a run that other workers were claimed for, too."""
        claim = running.claim

        def give_up(why: str) -> NoReturn:
            running.given_up = running.given_up or why
            raise PlacementLost(why)

        def form(told: Told) -> "AbstractContextManager[Workers]":
            from maitre.workers.process.group import lead

            placement = self._placements.current(claim.run_id)
            url = placement.url if placement is not None else ""
            return lead(
                told,
                address=urlsplit(url).hostname or "127.0.0.1",
                size=claim.size,
                checkpoint=checkpoint,
                publish=partial(self._placements.meet, claim.run_id, claim.attempt),
                give_up=give_up,
            )

        return form

    def _finish(self, running: Running, end: str, busy_s: float) -> None:
        if running.given_up:
            # Only now, when nothing of the run executes here any more, may another take it.
            self._hold(running).give_back(running.given_up, self._let_go)
        with self._lock:
            running.started = False
            # Whoever interrupts holds the lock, too: a cancel that came since the run ended (while
            # its checkpoint was removed, say) is here by now, and must not hit the next run.
            self._drop_interrupt()
            running.progress.mark("free")
            self._last = running.view()
            self._running = None
            if self._state == "busy":
                self._enter("idle")
        self.metrics.claim_ended(end, busy_s)

    def _give_up(self, running: Running, why: str) -> None:
        """Wait for the next step's checkpoint, or for a result to be stored; else cut it off."""
        until_s = time.monotonic() + STOP_GRACE_S
        while running.progress.phase in ("tuning", "registering") and time.monotonic() < until_s:
            if self._running is not running:
                return
            time.sleep(0.02)
        with self._lock:
            if self._running is running:
                running.given_up = why
                if running.started:
                    self._interrupt()

    def _hold(self, running: Running) -> Hold:
        return Hold(self._placements, running, self._log)

    def _keep_lease(self) -> None:
        while True:
            time.sleep(LEASE_S / 3)
            running = self._running
            if running is not None and running.claim.rank == 0:
                self._hold(running).renew()

    def _held(self, attempt: str) -> Running:
        if self._running is None or self._running.claim.attempt != attempt:
            raise NoSuchClaimError(f"{self.name} does not hold attempt {attempt}")
        return self._running

    def _enter(self, state: WorkerState) -> None:
        self._state = state
        self._since_s = time.time()

    @staticmethod
    def _interrupt() -> None:
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
