"""Laws of the store of prompt caches, by which mlx-lm's server reuses what it has read."""

from __future__ import annotations

from mlx_lm.models import cache as caching

from llm_spec.laws.finding import Finding, law, same
from llm_spec.laws.library.play import play_same

PLAYS, MOVES = 100, 12


@law
def prompts_are_reused() -> Finding:
    """A prompt cache found by lookup holds the prompt's first tokens, and comes with the rest.

    A prompt that begins with the one stored last, or begins it, is found. What is done to a cache
    that was handed out does not reach the stored one.
    """
    from llm_spec.laws.library.machines.prompt_store import PromptStore, holding

    finding = play_same("prompts that are not found as stored", PromptStore, "none", PLAYS, MOVES)
    if not finding.holds:
        return finding
    store = caching.LRUPromptCache(max_size=4)
    for length in (1, 2, 3):
        store.insert_cache("model", list(range(length)), [holding(list(range(length)))])
    kept = (len(store), store.nbytes)
    return same("prompts and bytes after one grew", kept, (1, holding([0, 1, 2]).nbytes))
