"""Numbers of the rules: a policy is one of each kind, and compiled code branches on them.

Plain integers, so that every policy has the same compiled type and one compilation serves all.
"""

OURS = 0  # the greedy of `solver.heuristic.params`

# Which request to admit first.
QUEUE, RETRACTED_LAST, SHORTEST_REMAINING, SHORTEST_TOTAL, BEST_BATCH, LEAST_BOUND = range(1, 7)
# What must fit besides the prompt.
PROMPT_ONLY, RESERVE_MAX, NEW_TOKEN_RATIO, SAMPLED_PEAK, PREDICTED_PEAK, CAPPED_RESERVE, BOUND_PEAK = range(1, 8)
# Which request to preempt when blocks run out.
LAST, LEAST_COMPUTED, FEWEST_OUTPUT, COST_AWARE, FLOPS_PER_BLOCK, MOST_REMAINING, LONGEST_TOTAL = range(1, 8)
SMALLEST_BOUND, THRIFTY = range(8, 10)
