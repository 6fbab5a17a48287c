"""Reading an update and planning take turns in a process, and whoever hangs holds up no request for long."""

import threading
import time

from kvhorizon.service.session import Inbox
from kvhorizon.service.turn import Turn
from kvhorizon.service.warm_up import sample_snapshot
from kvhorizon.wire.convert import encode_snapshot
from kvhorizon.wire.v1 import scheduler_pb2 as pb


def reading(turn: Turn) -> Inbox:
    """An inbox to which an engine has just sent its state."""
    inbox, update = Inbox(lambda: None, turn), pb.Update(open=pb.Open(snapshot=encode_snapshot(sample_snapshot())))
    threading.Thread(target=inbox.read, args=([update.SerializeToString()],), daemon=True).start()
    return inbox


def test_an_update_is_read_after_the_plan_under_way() -> None:
    turn = Turn()
    with turn.waited_for():
        inbox = reading(turn)
        time.sleep(0.05)
        assert inbox.idle
    assert inbox.take().revision == 1


def test_a_plan_that_hangs_does_not_keep_updates_unread() -> None:
    turn = Turn()
    with turn.waited_for():
        assert reading(turn).take().revision == 1
        with turn.if_free() as free:
            assert not free
    with turn.if_free() as free:
        assert free
