"""The Planner service: decode, plan, encode. Planning is the planner's, transport is `server`'s."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn, Protocol

import grpc

from kvhorizon.errors import InputError
from kvhorizon.service.explain import explain
from kvhorizon.service.metrics import ServiceMetrics
from kvhorizon.service.session import End, Inbox, Resync, read_snapshot
from kvhorizon.service.turn import Turn
from kvhorizon.state import Plan, Snapshot
from kvhorizon.wire.channel import SERVICE
from kvhorizon.wire.convert import encode_plan
from kvhorizon.wire.v1 import scheduler_pb2 as pb
from kvhorizon.wire.validate import parse

logger = logging.getLogger(__name__)


class Planned(NamedTuple):
    """A session's newest plan, and what it is based on."""

    snapshot: Snapshot
    plan: Plan


class PlannerLike(Protocol):
    """What makes plans. One serves one session, so it may keep what helps its next plan; it is never shared."""

    def plan(self, snapshot: Snapshot, budget: Any) -> Plan:
        """A plan for `snapshot` within `budget`."""
        ...

    def refine(self, seconds: float) -> None:
        """Prepare the next plan for so long."""
        ...


class PlannerService:
    """The three calls of the contract, on raw messages, so that what is malformed gets a proper answer."""

    def __init__(
        self,
        make_planner: Callable[[], PlannerLike],
        budget: Any,
        metrics: ServiceMetrics,
        max_sessions: int,
        refine_s: float = 0.0,
    ) -> None:
        """`refine_s` are seconds that a session's planner may work on after each plan, while no update waits."""
        self._make_planner = make_planner
        self._budget = budget
        self._metrics = metrics
        self._max_sessions = max_sessions
        self._refine_s = refine_s
        self._turn = Turn()
        self._inboxes: set[Inbox] = set()
        self._newest: dict[Inbox, Planned] = {}
        self._lock = threading.Lock()  # over the inboxes and what is newest

    def PlanOnce(self, raw: bytes, context: Any) -> pb.Plan:
        """One plan for one snapshot, by a planner that knows nothing else."""
        snapshot = self._read(context, lambda: read_snapshot(parse(pb.Snapshot, raw)))
        return encode_plan(self._plan(self._make_planner(), snapshot, context))

    def Explain(self, raw: bytes, context: Any) -> pb.ExplainReply:
        """One plan, or the newest of a session, and what it means for the requests asked for."""
        request = self._read(context, lambda: parse(pb.ExplainRequest, raw))
        if request.engine_id and not request.HasField("snapshot"):
            snapshot, plan = self._read(context, lambda: self._newest_of(request.engine_id))
        else:
            snapshot = self._read(context, lambda: read_snapshot(request.snapshot))
            plan = self._plan(self._make_planner(), snapshot, context)
        reasons = self._read(context, lambda: explain(snapshot, plan, list(request.handle)))
        return pb.ExplainReply(
            plan=encode_plan(plan), explanations=[pb.Explanation(**reason._asdict()) for reason in reasons]
        )

    def Session(self, messages: Iterator[bytes], context: Any) -> Iterator[pb.Plan]:
        """Plans for the newest state of one engine, until either side ends it."""
        inbox = self._open(context)
        try:
            context.add_callback(lambda: inbox.end(End.CLIENT))
            threading.Thread(target=inbox.read, args=(messages,), name="kvhorizon-session", daemon=True).start()
            planner = self._make_planner()
            while not isinstance(item := self._read(context, inbox.take), End):
                yield self._answer(inbox, planner, item, context)
                self._refine(planner, inbox)
            if item is not End.CLIENT:
                context.abort(grpc.StatusCode.UNAVAILABLE, item.value)
        finally:
            self._close(inbox)

    def stop(self) -> None:
        """End all sessions, each after the plan it is making."""
        with self._lock:
            inboxes = list(self._inboxes)
        for inbox in inboxes:
            inbox.end(End.STOPPING)

    def _answer(self, inbox: Inbox, planner: PlannerLike, item: Snapshot | Resync, context: Any) -> pb.Plan:
        if isinstance(item, Resync):
            self._metrics.resyncs.inc()
            return pb.Plan(resync=pb.Resync(**item._asdict()))
        plan = self._plan(planner, item, context)
        with self._lock:
            self._newest[inbox] = Planned(item, plan)
        return encode_plan(plan)

    def _newest_of(self, engine_id: str) -> Planned:
        """The newest plan of the engine's session, and what it is based on. Raises InputError where there is none."""
        with self._lock:
            held = [one for one in self._newest.values() if one.snapshot.facts.engine_id == engine_id]
        if not held:
            raise InputError("engine_id", engine_id, "must have a session, and a plan in it")
        return max(held, key=lambda one: one.snapshot.facts.engine_epoch)

    def _refine(self, planner: PlannerLike, inbox: Inbox) -> None:
        """Let a session's planner work ahead, if neither its engine nor another one waits."""
        if self._refine_s > 0.0 and inbox.idle:
            with self._turn.if_free() as free:
                if free:
                    planner.refine(self._refine_s)

    def _plan(self, planner: PlannerLike, snapshot: Snapshot, context: Any) -> Plan:
        start_s = time.perf_counter()
        try:
            with self._turn.waited_for():
                plan = planner.plan(snapshot, self._budget)
        except InputError as error:
            self._refuse(context, error)
        except Exception as error:
            self._metrics.failures.inc()
            logger.exception("the planner failed")
            context.abort(grpc.StatusCode.INTERNAL, f"the planner failed: {type(error).__name__}")
        self._metrics.planned(plan, time.perf_counter() - start_s)
        return plan

    def _read(self, context: Any, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except InputError as error:
            self._refuse(context, error)

    def _refuse(self, context: Any, error: InputError) -> NoReturn:
        self._metrics.invalid.inc()
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        raise AssertionError("abort returned")

    def _open(self, context: Any) -> Inbox:
        inbox = Inbox(self._metrics.dropped.inc, self._turn)
        with self._lock:
            room = len(self._inboxes) < self._max_sessions
            if room:
                self._inboxes.add(inbox)
        if not room:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"sessions={self._max_sessions} already, must be fewer")
        self._metrics.sessions.inc()
        return inbox

    def _close(self, inbox: Inbox) -> None:
        inbox.end(End.CLIENT)
        with self._lock:
            self._inboxes.discard(inbox)
            self._newest.pop(inbox, None)
        self._metrics.sessions.dec()


def handlers(service: PlannerService) -> Any:
    """The calls under their names in the contract. Requests stay bytes: gRPC would answer malformed ones INTERNAL."""
    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
    methods = {
        "PlanOnce": unary(service.PlanOnce, None, pb.Plan.SerializeToString),
        "Explain": unary(service.Explain, None, pb.ExplainReply.SerializeToString),
        "Session": stream(service.Session, None, pb.Plan.SerializeToString),
    }
    return grpc.method_handlers_generic_handler(SERVICE, methods)
