"""Laws that hold for every model of mlx-lm, whatever its architecture.

    case = Case(model, token_ids, config)
    for law in LAWS:
        print(law.__name__, law(case).says)

Each law is a function from a case to a finding, with a control that keeps its verdict from being
empty. Whether a law applies is read off the model, never off its name.
"""

from tools.laws import (
    batched,
    cached,
    caches,
    configured,
    experts,
    forward,
    generation,
    observed,
    parts,
    rotary,
    samplers,
    serving,
    states,
    stored,
    text,
)
from tools.laws.finding import Case, Finding, Law, ObjectLaw, TextLaw

__all__ = [
    "LAWS",
    "OBJECT_LAWS",
    "TEXT_LAWS",
    "Case",
    "Finding",
    "Law",
    "ObjectLaw",
    "TextLaw",
]

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
    batched.a_long_batch_is_alone,
    batched.rows_keep_their_samplers,
    batched.batches_change_while_they_run,
    batched.histories_merge,
    observed.attention_is_reproduced,
    observed.a_decode_step_is_reproduced,
    observed.quantised_attention_is_reproduced,
    observed.tracing_changes_nothing,
    observed.states_are_the_layers_outputs,
    generation.generation_follows_the_logits,
    generation.embeddings_can_prompt,
    generation.a_prompt_cache_goes_on,
    generation.text_ends_at_its_end,
    generation.speculation_is_greedy,
    generation.processors_see_everything,
    generation.a_batch_stops_at_its_stop_tokens,
    serving.histories_are_taken_up,
    serving.rows_can_be_taken_away,
    serving.answers_keep_their_order,
    serving.generation_quantises_its_cache,
    stored.reloaded_is_the_same,
    stored.quantised_is_the_same_rounded,
    stored.weights_are_finite,
    stored.every_layer_acts,
    stored.layers_differ,
    experts.the_best_expert_is_asked,
    stored.every_weight_matters,
    rotary.rope_base_is_read,
    rotary.rope_parameters_are_read,
    configured.a_spare_head_is_dropped,
    configured.the_configuration_declares_the_weights,
    configured.layers_and_caches_are_counted,
)

OBJECT_LAWS: tuple[ObjectLaw, ...] = (
    caches.single_caches_remember,
    caches.batch_caches_keep_rows_apart,
    caches.chunks_follow_tokens,
    caches.batch_caches_reload,
    caches.rows_without_a_token_come_out,
    caches.quantised_caches_round,
    caches.prompts_are_reused,
    states.chunked_caches_remember,
    states.state_caches_keep_rows_apart,
    states.state_caches_know_their_padding,
    states.lists_of_caches_do_as_their_parts,
    states.caches_keep_half_precision,
    states.a_read_offset_stays,
    parts.token_buffers_remember,
    parts.stop_sequences_are_found,
    parts.packed_attention_is_attention,
    parts.rotations_know_their_place,
    parts.every_rank_has_its_layers,
    samplers.top_k_keeps_k,
    samplers.top_p_keeps_the_nucleus,
    samplers.min_p_keeps_the_likely,
    samplers.min_p_keeps_its_fewest,
    samplers.xtc_drops_the_top_choices,
    samplers.draws_follow_the_distribution,
    samplers.penalties_push_what_was_seen,
    text.the_naive_detokenizer_streams,
    text.the_naive_detokenizer_streams_bytes,
    text.the_bpe_detokenizer_streams,
    text.the_spm_detokenizer_streams,
)
"""Laws of mlx-lm's own objects: they take nothing, and hold for every model at once."""

TEXT_LAWS: tuple[TextLaw, ...] = text.TEXT_LAWS
"""Laws of a tokenizer: they take mlx-lm's wrapper of one."""
