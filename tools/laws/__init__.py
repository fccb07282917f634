"""Laws that hold for every model of mlx-lm, whatever its architecture.

    case = Case(model, token_ids, config)
    for law in LAWS:
        print(law.__name__, law(case).says)

Each law is a function from a case to a finding, with a control that keeps its verdict from being
empty. Whether a law applies is read off the model, never off its name.
"""

from tools.laws import batched, cached, caches, configured, forward, generation, observed, stored
from tools.laws.finding import Case, Finding, Law, ObjectLaw

__all__ = ["LAWS", "OBJECT_LAWS", "Case", "Finding", "Law", "ObjectLaw"]

LAWS: tuple[Law, ...] = (
    forward.finite_logits,
    forward.determinism,
    forward.causality,
    forward.rows_are_independent,
    forward.embeddings_are_token_ids,
    forward.half_precision_is_kept,
    cached.cached_is_uncached,
    cached.a_long_prompt_is_cached,
    cached.trimmed_is_never_fed,
    cached.saved_cache_continues,
    cached.copied_cache_stands_alone,
    cached.an_unfilled_bound_changes_nothing,
    cached.quantised_cache_rounds_and_no_more,
    batched.batch_rows_are_alone,
    batched.batches_change_while_they_run,
    batched.histories_merge,
    observed.attention_is_reproduced,
    observed.a_decode_step_is_reproduced,
    observed.quantised_attention_is_reproduced,
    observed.tracing_changes_nothing,
    observed.states_are_the_layers_outputs,
    generation.generation_follows_the_logits,
    generation.speculation_is_greedy,
    generation.processors_see_everything,
    generation.a_batch_stops_at_its_stop_tokens,
    stored.reloaded_is_the_same,
    stored.quantised_is_the_same_rounded,
    stored.layers_differ,
    stored.every_weight_matters,
    configured.rope_parameters_are_read,
    configured.a_spare_head_is_dropped,
)

OBJECT_LAWS: tuple[ObjectLaw, ...] = (
    caches.single_caches_remember,
    caches.batch_caches_keep_rows_apart,
    caches.chunks_follow_tokens,
    caches.batch_caches_reload,
    caches.rows_without_a_token_come_out,
    caches.quantised_caches_round,
    caches.prompts_are_reused,
)
"""Laws of mlx-lm's own objects: they take nothing, and hold for every model at once."""
