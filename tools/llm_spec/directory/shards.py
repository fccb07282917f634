"""Which weight files belong to a model: its index, its numbered shards, and what lies beside."""

import re
from collections.abc import Mapping

from llm_spec.directory.errors import BadModel, read_json
from llm_spec.directory.files import Files
from llm_spec.text.untrusted import quoted

INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
WHOLE = "model.safetensors"
MOST = 2_000
IGNORED = "mlx-lm ignores it; delete it"


def read_index(found: Files) -> tuple[dict[str, str], str | None]:
    """Tensor -> file, as the index says, or a sentence about an index that is none of this model.

    Both are empty without an index. mlx-lm reads none, so it is believed only where it can tell
    that files are missing.
    """
    if INDEX not in found.small:
        return {}, None
    try:
        index = read_json(found.root / INDEX)
    except BadModel as problem:
        return {}, f"{str(problem).rstrip('.')}: {IGNORED}."
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(v, str) for v in shards.values()):
        return (
            {},
            f"{INDEX} should map each tensor to a file (weight_map), but does not: {IGNORED}.",
        )
    if shards and not set(shards.values()) & found.weights.keys():
        first = quoted(min(shards.values()))
        return {}, f"{INDEX} describes another build, with {first}: {IGNORED}."
    return shards, None


def check_complete(found: Files, index: Mapping[str, str]) -> None:
    """Raises `BadModel` where a file is missing that the index or others' numbers speak of."""
    wanted = set(index.values())
    if first := min(_numbered(found, index), default=None):
        count = int(first.rpartition("-")[2].partition(".")[0])
        if count > MOST:
            raise BadModel(f"{first} speaks of {count:,} files, which no model has.")
        wanted |= {f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)}
    if missing := sorted(wanted - found.weights.keys()):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BadModel(
            f"{quoted(missing[0])}{more} of {len(wanted)} files of weights is missing: fetch it."
        )


def other_build(index: Mapping[str, str], tensors: Mapping[str, object]) -> str | None:
    """A sentence where the index tells of tensors that are in no file."""
    if lost := sorted(index.keys() - tensors.keys()):
        tensor, file = quoted(lost[0]), quoted(index[lost[0]])
        return f"{INDEX} describes another build, with {tensor} in {file}: {IGNORED}."
    return None


def stray(found: Files, index: Mapping[str, str]) -> str | None:
    """The name of a weight file that is none of the model's: beside numbered shards one without
    such a number, beside model.safetensors any other. What the index names belongs to it."""
    own = _numbered(found, index)
    own = (own or {WHOLE} & found.weights.keys()) | set(index.values())
    others = sorted(found.weights.keys() - own)
    return others[0] if own and others else None


def _numbered(found: Files, index: Mapping[str, str]) -> set[str]:
    """The numbered files of one build: of those that the index names, else of the most files."""
    builds: dict[str, set[str]] = {}
    for name in found.weights:
        if match := SHARD.fullmatch(name):
            builds.setdefault(match[2], set()).add(name)
    named = set(index.values())
    return max(builds.values(), key=lambda build: (len(build & named), len(build)), default=set())
