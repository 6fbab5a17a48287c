"""Requests for structured output whose grammar is not there yet: no candidates until it is, and in no other's way.

vLLM lets such a request on when it meets it in its queue; one that may be chosen as soon as its grammar is ready need
not be shown before. A grammar that failed must be: vLLM ends the request once it sees it.
"""

from __future__ import annotations

from typing import Any

from kvhorizon.adapter.kinds.kinds import grammar_of, lacks_grammar


class Grammars:
    """Of one engine. Requests by name; `failed` are to be shown."""

    def __init__(self) -> None:
        self.awaited: dict[str, Any] = {}
        self.failed: dict[str, Any] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.awaited or name in self.failed

    def __len__(self) -> int:
        return len(self.awaited) + len(self.failed)

    def note(self, request: Any) -> None:
        """Keep it in mind if it has to wait for its grammar."""
        if lacks_grammar(request):
            self.awaited[request.request_id] = request

    def settle(self) -> list[Any]:
        """Requests whose grammar has come since the last call."""
        found = [request for request in self.awaited.values() if grammar_of(request) is not None]
        for request in found:
            del self.awaited[request.request_id]
            if isinstance(grammar_of(request), Exception):
                self.failed[request.request_id] = request
        return [request for request in found if request.request_id not in self.failed]

    def leave(self, name: str) -> None:
        """The request is over, or runs."""
        self.awaited.pop(name, None)
        self.failed.pop(name, None)

    def clear(self) -> None:
        """Forget all."""
        self.awaited.clear()
        self.failed.clear()
