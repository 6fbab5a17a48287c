"""What was replayed: trace, engine, clients, and what was supposed of them."""

from __future__ import annotations

from html import escape
from typing import Any


def _fleet(fleet: dict[str, Any] | None) -> dict[str, str]:
    """Engines and clients, where they are not one and endlessly patient."""
    if fleet is None or (fleet["replicas"] == 1 and fleet["patience_s"] is None):
        return {}
    told = {"engines": f"{fleet['replicas']:,}, by {fleet['router']}"}
    if fleet["patience_s"] is not None:
        told["clients"] = f"give up after {fleet['patience_s']:g} s, and ask again up to {fleet['retries']} times"
    return told


def _supposed(results: dict[str, Any]) -> dict[str, str]:
    """What was changed about the requests and the engine, where anything was."""
    told, most, failure = {}, results.get("max_output_tokens"), results.get("failure")
    if most is not None:
        told["outputs"] = f"cut at {most:,} tokens"
    if results.get("offload_gb_s"):
        told["evicted KV"] = f"is kept in host memory and comes back at {results['offload_gb_s']:g} GB/s"
    if results.get("mix"):
        told["mix"] = f"{results['mix']['share']:.0%} of the requests from {results['mix']['trace']}"
    if failure:
        told["failure"] = f"of an engine at {failure['at_s']:g} s, away for {failure['down_for_s']:g} s"
    return told


def replayed(results: dict[str, Any], command: str) -> str:
    """The section of the page; `command` is escaped here."""
    trace, engine = results["trace"], results["engine"]
    facts = {
        "trace": f"{trace['name']}: {trace['requests']:,} requests over {trace['span_s']:,.0f} s",
        "tokens": f"{trace['prompt_tokens']:,} of prompts, {trace['output_tokens']:,} of output",
        "engine": f"{engine['model']} on {engine['tp']} × {engine['gpu']}",
        "KV pool": f"{engine['kv_blocks']:,} blocks of {engine['block_size']} tokens",
        "limits": f"{engine['max_num_seqs']:,} sequences, {engine['max_num_batched_tokens']:,} tokens a step",
        "prefix caching": engine.get("prefix_caching_says", "off"),
        **_fleet(results.get("fleet")),
        **_supposed(results),
        "load": "the trace's own arrivals" if results["load"] is None else f"{results['load']} × capacity",
        "forecast": results["forecast"],
        "seed": str(results["seed"]),
        "sha256 of the trace": trace["sha256"],
    }
    entries = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    made = f"<dt>command</dt><dd><code>{escape(command)}</code></dd>"
    return f'<section aria-labelledby="facts"><h2 id="facts">What was replayed</h2><dl>{entries}{made}</dl></section>'
