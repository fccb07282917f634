"""A chat template that is not trusted: filled in by a process that can be ended."""

from pathlib import Path
from typing import Any

from llm_spec.processes.child import Child, Stopped

STARTING = 120.0  # s for mlx-lm and a tokenizer to load
SECONDS = 10.0  # s for one conversation, which an honest template fills in within milliseconds


class TemplateFailed(Exception):
    """No text was made of a conversation. The text says why, and holds nothing that commands a
    terminal. `refused`: the template says by itself that it will not have such a conversation."""

    def __init__(self, why: str, refused: bool = False) -> None:
        super().__init__(f"the chat template cannot be filled in ({why})")
        self.refused = refused


class BoundedTemplate:
    """Fills in the chat template of a model directory, in bounded time and memory.

    mlx-lm's TokenizerWrapper takes it for a template of its own:

        tokenizer._chat_template = BoundedTemplate(view)

    One process serves all conversations; the next one after it was ended gets a new one.
    """

    def __init__(self, view: Path, seconds: float = SECONDS) -> None:
        self.view, self.seconds = view, seconds
        self._child: Child | None = None

    def __call__(self, messages: list[dict[str, Any]], **options: Any) -> str:
        """The text of a conversation. Raises `TemplateFailed`."""
        try:
            if self._child is None:
                self._child = Child("llm_spec.directory.trial_render", str(self.view))
                self._child.receive(STARTING)
            self._child.send({"messages": messages, "options": options})
            answer = self._child.receive(self.seconds)
        except Stopped as end:
            if self._child is not None:
                self._child.close()
            self._child = None
            raise TemplateFailed(f"it {end}") from None
        if "problem" in answer:
            raise TemplateFailed(answer["problem"], answer["refused"])
        return str(answer["text"])
