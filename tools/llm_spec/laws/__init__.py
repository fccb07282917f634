"""Laws that hold for every model of mlx-lm, whatever its architecture.

    case = Case(model, token_ids, config)
    for law in LAWS:
        print(law.__name__, law(case).says)

Each law is a function from a case to a finding, with a control that keeps its verdict from being
empty. Whether a law applies is read off the model, never off its name.
"""

from llm_spec.laws.case import Case
from llm_spec.laws.finding import Finding, Law, ObjectLaw, TextLaw
from llm_spec.laws.library import (
    fine_tuning,
    kv_caches,
    primitives,
    prompt_store,
    samplers,
    state_caches,
)
from llm_spec.laws.model import (
    batch,
    cache,
    configuration,
    copies,
    experts,
    forward,
    generation,
    rotary,
    serving,
    settings,
    storage,
    tracing,
)
from llm_spec.laws.tokenizer import chat, text

__all__ = [
    "CHAT_LAWS",
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
    cache.cached_is_uncached,
    cache.a_long_prompt_is_cached,
    cache.trimmed_is_never_fed,
    cache.saved_cache_continues,
    cache.copied_cache_stands_alone,
    cache.an_unfilled_bound_changes_nothing,
    cache.quantised_cache_rounds_and_no_more,
    batch.batch_rows_are_alone,
    batch.a_long_batch_is_alone,
    batch.rows_keep_their_samplers,
    batch.batches_change_while_they_run,
    batch.histories_merge,
    tracing.attention_is_reproduced,
    tracing.a_decode_step_is_reproduced,
    tracing.quantised_attention_is_reproduced,
    tracing.tracing_changes_nothing,
    tracing.states_are_the_layers_outputs,
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
    serving.generation_quantises_by_default,
    storage.reloaded_is_the_same,
    storage.quantised_is_the_same_rounded,
    storage.weights_are_finite,
    storage.every_layer_acts,
    storage.layers_differ,
    copies.matrices_differ,
    experts.the_best_expert_is_asked,
    storage.every_weight_matters,
    rotary.rope_base_is_read,
    rotary.rope_parameters_are_read,
    settings.stated_settings_are_read,
    configuration.a_spare_head_is_dropped,
    configuration.the_configuration_declares_the_weights,
    configuration.layers_and_caches_are_counted,
)

OBJECT_LAWS: tuple[ObjectLaw, ...] = (
    kv_caches.single_caches_remember,
    kv_caches.batch_caches_keep_rows_apart,
    kv_caches.chunks_follow_tokens,
    kv_caches.batch_caches_reload,
    kv_caches.rows_without_a_token_come_out,
    kv_caches.quantised_caches_round,
    prompt_store.prompts_are_reused,
    state_caches.chunked_caches_remember,
    state_caches.state_caches_keep_rows_apart,
    state_caches.state_caches_know_their_padding,
    state_caches.lists_of_caches_do_as_their_parts,
    state_caches.caches_keep_half_precision,
    state_caches.a_read_offset_stays,
    primitives.token_buffers_remember,
    primitives.stop_sequences_are_found,
    primitives.packed_attention_is_attention,
    primitives.rotations_know_their_place,
    primitives.every_rank_has_its_layers,
    fine_tuning.adapters_of_another_base_are_refused,
    fine_tuning.batches_follow_their_seed,
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

CHAT_LAWS: tuple[TextLaw, ...] = chat.CHAT_LAWS
"""Laws of a chat template: they take mlx-lm's wrapper of a tokenizer."""

TEXT_LAWS: tuple[TextLaw, ...] = (*text.TEXT_LAWS, *CHAT_LAWS)
"""Laws of a tokenizer and its chat template: they take mlx-lm's wrapper of one."""
