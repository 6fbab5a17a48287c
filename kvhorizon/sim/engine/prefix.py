"""What the prefix cache holds of the waiting requests' prompts: `shared` and `idle` of the columns, as of now.

A chain of blocks is used as a whole and becomes free from its end, so that its end is overwritten first. So the leading
blocks that are cached, and of these the ones in use, each end at one boundary. A boundary that was right before is
checked with two look-ups, and else searched for by bisection. (Equal blocks computed side by side can make the second
boundary too small; what a request really takes is settled by the engine when it is admitted.)
"""

from kvhorizon.compiled.compiler import inside
from kvhorizon.sim.engine.cache import NONE, place_of


@inside
def users_of(cache, n, place):  # type: ignore[no-untyped-def]
    """Running requests that use the block of request n's content at `place`; -1 where it is not cached."""
    at = place_of(cache, cache.contents[cache.start[n] + place])
    return -1 if cache.keys[at] == NONE else cache.users[cache.first[at]]


@inside
def boundary(cache, n, most, least_users, guess):  # type: ignore[no-untyped-def]
    """How many leading blocks of request n, at most `most`, are cached and have at least so many users each."""
    low, high = 0, most
    if guess <= most:
        if guess == 0 or users_of(cache, n, guess - 1) >= least_users:
            low = guess
            if guess == most or users_of(cache, n, guess) < least_users:
                return guess
        else:
            high = guess - 1
    while low < high:
        middle = (low + high + 1) // 2
        if users_of(cache, n, middle - 1) >= least_users:
            low = middle
        else:
            high = middle - 1
    return low


@inside
def look_up(engine, cache, waiting, num_waiting):  # type: ignore[no-untyped-def]
    """Bring `shared` and `idle` of the first so many `waiting` requests up to date."""
    if cache is None:
        return
    columns, size = engine.columns, engine.limits.block_size
    for i in range(num_waiting):
        n = waiting[i]
        most = min(
            (columns.prompt[n] + columns.generated[n] - 1) // size,
            cache.start[n + 1] - cache.start[n],
        )
        before, held = (columns.shared[n] + columns.idle[n]) // size, columns.shared[n] // size
        found = boundary(cache, n, most, 0, before)
        held = boundary(cache, n, found, 1, held)
        columns.shared[n] = held * size
        columns.idle[n] = (found - held) * size
