"""The tokenizer files of a merged model: those of one input, with the further tokens of the others written into them."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from weightspace.analysis.merging.chat_templates import CHAT_TEMPLATES
from weightspace.analysis.merging.tokenizer import Common
from weightspace.errors import MergeError, guarded, one_line
from weightspace.vocabulary import Vocabulary, read_object

_COPIED = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json",
    "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_REWRITTEN = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json")


def tokenizer_files(
    common: Common | None, folders: Mapping[str, Path | None], *, origin: str | None = None, chat_template: str | None = None
) -> dict[str, bytes]:
    """Make the tokenizer files of a merged model.

    Where the common vocabulary is that of the input that it starts from, that one's files are copied as they are. Otherwise its
    tokenizer.json is rewritten: every token stands in the model's own vocabulary under its id, and those that were added in any
    input are added tokens. Text is cut into pieces as before: in BPE no merge makes the further pieces of other models, in Unigram
    they score less than any other way to write them; in WordPiece and WordLevel words that only other models know become known.
    Here we depart from mergekit, which adds the others' pieces as tokens that are then found inside of words.

    Args:
        common: the vocabulary of the result; None where the inputs' vocabularies are not touched.
        folders: where the inputs' tokenizers lie, by their names in the recipe.
        origin: whose files are taken where there is no common vocabulary; by default the first's.
        chat_template: `auto` (the one that most inputs have), a model, one of `CHAT_TEMPLATES` or the text of a template; by default
            the files keep theirs.

    Raises:
        MergeError: a tokenizer cannot be extended, or there is no such chat template.
        FormatError: a damaged tokenizer file.
    """
    start = folders[next(iter(folders)) if origin is None else origin] if common is None else folders[common.names[common.origin]]
    if start is None:
        return {}
    own = None if common is None else Vocabulary.read(start)
    if common is None or (own is not None and own.ids == common.ids and own.added == common.added):
        files = {name: (start / name).read_bytes() for name in _COPIED if (start / name).is_file()}
    else:
        files = _extended(common, start)
    template = _chosen(chat_template, folders)
    if template is not None:
        files = {name: content for name, content in files.items() if not name.startswith("chat_template")}
        config = json.loads(files.get("tokenizer_config.json", b"{}"))
        files["tokenizer_config.json"] = _written({**config, "chat_template": template})
    return files


def _written(content: Any) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode("utf-8", "surrogatepass")


def _extended(common: Common, start: Path) -> dict[str, bytes]:
    if not (start / "tokenizer.json").is_file():
        raise MergeError(
            f"{start}: tokens are to be added, for which its tokenizer.json is needed, and it has none; "
            "save its tokenizer once with transformers, or write tokenizer_source: base"
        )
    files = {name: (start / name).read_bytes() for name in _REWRITTEN if (start / name).is_file()}
    tokenizer = read_object(start / "tokenizer.json")
    files["tokenizer.json"] = _written(guarded(lambda _: _with_tokens(tokenizer, common), start / "tokenizer.json"))
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if name in files:
            config = _without_gone(read_object(start / name), common)
            if "added_tokens_decoder" in config:
                config["added_tokens_decoder"] = {str(one.pop("id")): one for one in _added(common)}
            files[name] = _written(config)
    return files


def _added(common: Common) -> list[dict[str, Any]]:
    ordered = sorted(common.added, key=common.ids.__getitem__)
    return [{"id": common.ids[token], "content": token, **asdict(common.added[token])} for token in ordered]


def _with_tokens(tokenizer: Mapping[str, Any], common: Common) -> dict[str, Any]:
    model = dict(tokenizer["model"])
    if isinstance(model["vocab"], list):
        model["vocab"] = _scored(model["vocab"], common)
    else:
        model["vocab"] = dict(sorted(common.ids.items(), key=lambda one: one[1]))
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if _is_kept(merge, common.ids)]
    return {**tokenizer, "added_tokens": _added(common), "model": model}


def _is_kept(merge: Any, ids: Mapping[str, int]) -> bool:
    """Whether both parts of a merge are still tokens, and what it makes is."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left in ids and right in ids and left + right in ids


def _scored(pieces: list[Any], common: Common) -> list[list[Any]]:
    """Unigram's pieces and their log probabilities in the order of ids; further ones lose to any other way to write them.

    A piece of n characters is written otherwise in at most n pieces, none of which scores less than the lowest. Ids
    that no token has are filled, for they are places in a list.
    """
    scores = {piece: float(score) for piece, score in pieces}
    lowest = min([-1.0, *scores.values()])
    tokens = {row: token for token, row in common.ids.items()}
    listed = [tokens.get(row, f"<no token {row}>") for row in range(max(tokens) + 1)]
    return [[token, scores.get(token, lowest * (len(token) + 2))] for token in listed]


def _without_gone(config: Mapping[str, Any], common: Common) -> dict[str, Any]:
    """A config that names no token that is not there: loaders would add it anew, in a row that the embeddings do not have."""

    def is_there(token: Any) -> bool:
        content = token.get("content") if isinstance(token, Mapping) else token
        return not isinstance(content, str) or content in common.ids

    made = {key: value for key, value in config.items() if not key.endswith("_token") or is_there(value)}
    for key in ("additional_special_tokens", "extra_special_tokens"):
        if isinstance(made.get(key), list):
            made[key] = [token for token in made[key] if is_there(token)]
        elif isinstance(made.get(key), Mapping):
            made[key] = {name: token for name, token in made[key].items() if is_there(token)}
    return made


def _chosen(setting: str | None, folders: Mapping[str, Path | None]) -> str | None:
    if not setting:
        return None
    if setting == "auto":
        found = Counter(text.strip() for folder in folders.values() if folder is not None and (text := chat_template_of(folder)))
        return found.most_common(1)[0][0] if found else None
    if setting in folders:
        folder = folders[setting]
        template = chat_template_of(folder) if folder is not None else None
        if template is None:
            raise MergeError(f"chat_template: model '{setting}' has none; name another model, or write the template itself")
        return template
    if setting in CHAT_TEMPLATES:
        return CHAT_TEMPLATES[setting]
    if "{" not in setting:
        raise MergeError(
            f"chat_template is '{one_line(setting, 60)}'; expected auto, a model of the recipe, "
            f"one of {', '.join(CHAT_TEMPLATES)}, or the text of a Jinja template"
        )
    return setting


def chat_template_of(folder: Path) -> str | None:
    """The chat template that a model folder has: in a file of its own, or in the tokenizer's config; of several the default one."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text("utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        found = read_object(folder / name).get("chat_template") if (folder / name).is_file() else None
        if isinstance(found, list):
            found = {one["name"]: one["template"] for one in found if isinstance(one, Mapping) and {"name", "template"} <= set(one)}
        if isinstance(found, Mapping):
            found = found.get("default")
        if isinstance(found, str) and found:
            return found
    return None
