"""Whether another setting changes what a model computes.

The model is built anew for each, as mlx-lm loads it, and computed no further than it has to be:
what the first layer gives tells most settings apart, and logits the others.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm import utils as loading

from llm_spec.laws.case import Case
from llm_spec.laws.execution import feed_in_chunks, logits_of
from llm_spec.laws.model.round_trip import loaded, loaded_lazily, saved
from llm_spec.model.config import text_config
from llm_spec.model.dry_run import Calls
from llm_spec.observe.hooks import watched
from llm_spec.observe.recorder import TraceError, layers_of

Changes = Mapping[str, Any]


class FirstOutput(Calls):
    """Keeps what one module gives when it is first called."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def left(self, output: Any, module: nn.Module, *args: Any, **kwargs: Any) -> None:
        """Keep a handle of the array, which the model may change in place later."""
        if module is self.module and not self and isinstance(output, mx.array):
            super().left(output[...], module)


class Probe:
    """A model on disk, and what it computes as its configuration says and with changes to that."""

    def __init__(self, case: Case, directory: Path) -> None:
        self._case, self._directory = case, directory
        self._held = dict(tree_flatten(case.model.parameters()))
        self._as_stated: dict[tuple[str, str], np.ndarray | None] = {}

    def unmoved(
        self, changes: Mapping[str, Changes], token_ids: Sequence[int], beside: Changes
    ) -> list[str]:
        """Which of the changes, by name, change no bit of what is computed of a few tokens, where
        the configuration has the settings `beside`. A value that stops a load was read.

        Those that the first layer does not tell are tried together: mostly no logit is changed by
        any. Else each is tried by itself.
        """
        rest = [name for name in changes if not self._moves(changes[name], token_ids, beside)]
        together = {key: value for name in rest for key, value in changes[name].items()}
        if len(rest) > 1 and not self._moves_logits(together, token_ids, beside):
            return rest
        return [n for n in rest if not self._moves_logits(changes[n], token_ids, beside)]

    def _moves(self, changes: Changes, token_ids: Sequence[int], beside: Changes) -> bool:
        stated = self._stated(self._first_output, token_ids, beside)
        try:
            changed = self._first_output({**beside, **changes}, token_ids)
        except Exception:
            return True
        return stated is not None and changed is not None and not np.array_equal(changed, stated)

    def _moves_logits(self, changes: Changes, token_ids: Sequence[int], beside: Changes) -> bool:
        stated = self._stated(self._logits, token_ids, beside)
        try:
            changed = self._logits({**beside, **changes}, token_ids)
        except Exception:
            return True
        return stated is None or not np.array_equal(changed, stated)

    def _stated(
        self,
        compute: Callable[[Changes, Sequence[int]], np.ndarray | None],
        token_ids: Sequence[int],
        beside: Changes,
    ) -> np.ndarray | None:
        """What `compute` gives without a change. Only that is kept, and not the model."""
        key = compute.__name__, f"{list(token_ids)} {beside}"
        if key not in self._as_stated:
            self._as_stated[key] = compute(beside, token_ids)
        return self._as_stated[key]

    def moves_a_long_text(self, changes: Changes) -> bool:
        """Whether they change the logits of the case's prompt, in one pass or token by token."""
        try:
            changed = self._loaded(changes)
        except Exception:
            return True
        if not np.array_equal(logits_of(changed, self._case.token_ids), self._case.logits):
            return True
        return not np.array_equal(
            step_by_step(self._case, changed), self._case.once(step_by_step)
        )  # fmt: skip

    def _first_output(self, changes: Changes, token_ids: Sequence[int]) -> np.ndarray | None:
        """What the first layer gives: no weight of a later one is read for that. None where the
        model does not say which its layers are."""
        model = loaded_lazily(self._configured(changes))
        try:
            first = FirstOutput(layers_of(model)[0])
        except TraceError:
            return None
        with watched(model, None, first):
            model(mx.array([list(token_ids)]))
        return np.array(first[0].output.astype(mx.float32)) if first else None

    def _logits(self, changes: Changes, token_ids: Sequence[int]) -> np.ndarray:
        return logits_of(self._loaded(changes), token_ids)

    def _loaded(self, changes: Changes) -> nn.Module:
        return loaded(self._configured(changes), self._held)

    def _configured(self, changes: Changes) -> Path:
        config = copy.deepcopy(self._case.config)
        text_config(config).update(copy.deepcopy(dict(changes)))
        loading.save_config(config, self._directory / "config.json")
        return self._directory


@contextmanager
def probed(case: Case) -> Iterator[Probe]:
    """A probe of the case's model, while the context is open."""
    with saved(case.model, case.config) as directory:
        yield Probe(case, directory)


def step_by_step(case: Case, model: nn.Module | None = None) -> np.ndarray:
    """(tokens, vocabulary): logits of `model`, or of the case's own, of which the last two tokens
    come one by one."""
    steps = [len(case.token_ids) - 2, 1, 1]
    return feed_in_chunks(model or case.model, case.token_ids, steps)[0]
