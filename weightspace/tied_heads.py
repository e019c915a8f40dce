"""Output heads that a model's config ties to its input embeddings, so that its file may leave them out."""

from collections.abc import Mapping

from weightspace.checkpoint import Checkpoint

TIED = (
    ("lm_head.weight", "model.embed_tokens.weight"),
    ("lm_head.weight", "transformer.wte.weight"),
    ("lm_head.weight", "shared.weight"),
    ("lm_head.weight", "gpt_neox.embed_in.weight"),
    ("embed_out.weight", "gpt_neox.embed_in.weight"),
)
"""Names of a head and of the embeddings that it is tied to."""

_TIED_BY_DEFAULT = frozenset(
    "gpt2 gpt_neo gpt_bigcode openai-gpt opt bloom falcon mpt gemma gemma2 gemma3_text cohere cohere2 mamba xglm biogpt "
    "t5 mt5 umt5 longt5 bart mbart pegasus marian m2m_100 led whisper "
    "bert roberta xlm-roberta camembert distilbert albert electra deberta deberta-v2 mpnet modernbert".split()
)
"""Model types of whose heads transformers assumes so where a config does not say (5.23)."""


def ties_head(checkpoint: Checkpoint) -> bool:
    """Whether a model's config says that its head is its embedding, or says nothing where that is the rule.

    Example:
        >>> ties_head(Checkpoint.of({}, metadata={"config": {"model_type": "gpt2"}}))
        True
        >>> ties_head(Checkpoint.of({}, metadata={"config": {"model_type": "gpt2", "tie_word_embeddings": False}}))
        False
    """
    config = checkpoint.metadata.get("config")
    return isinstance(config, Mapping) and bool(config.get("tie_word_embeddings", config.get("model_type") in _TIED_BY_DEFAULT))
