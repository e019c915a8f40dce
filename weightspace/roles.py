"""The role of a layer in its network by its name: the parts of attention and of a feed-forward block, else the layer's own name."""

import re

_ROLES = {
    "qkv": r"c_attn|query_key_value|qkv|qkv_proj|in_proj|in_proj_weight|wqkv",
    "q": r"q|q_proj|query|to_q|wq|q_lin|query_proj",
    "k": r"k|k_proj|key|to_k|wk|k_lin|key_proj",
    "v": r"v|v_proj|value|to_v|wv|v_lin|value_proj",
    "o": r"o|o_proj|out_proj|to_out|to_out\.0|wo|out_lin|(?:attention|attn|attention\.output|self_attention)\.dense|attn\.c_proj|attn\.proj",
    "gate": r"gate_proj|gate|w1_gate|wi_0",
    "up": r"up_proj|c_fc|fc1|wi|wi_1|lin1|intermediate\.dense|dense_h_to_4h|(?:mlp|ffn|feed_forward)\.w3",
    "down": r"down_proj|(?:mlp\.)c_proj|fc2|lin2|dense_4h_to_h|(?<!attention\.)output\.dense|(?:mlp|ffn|feed_forward)\.w2|(?:DenseReluDense|ffn|mlp)\.wo",
}
# Of several that fit, the longest text decides: `mlp.wo` before `wo`.
_PATTERNS = {role: re.compile(rf"(?:^|[._/])(?P<found>{pattern})$", re.IGNORECASE) for role, pattern in _ROLES.items()}
_TAIL = re.compile(r"([._/](weight|kernel|bias|base_layer|default|processor|lora|lora_[ab]))*(:0)?$", re.IGNORECASE)
_BLOCK = re.compile(r"^(.*?[._/]?\d+)[._/]")


def role_of(name: str) -> str:
    """Tell the role of a tensor or module: q, k, v, o, qkv (in one), gate, up, down, else the last word of its name that is no number.

    Example:
        >>> role_of("model.layers.3.self_attn.q_proj.weight"), role_of("bert.encoder.layer.0.attention.output.dense.weight")
        ('q', 'o')
        >>> role_of("features.7.conv2.weight")
        'conv2'
    """
    bare = _TAIL.sub("", name)
    found = {role: match["found"] for role, pattern in _PATTERNS.items() if (match := pattern.search(bare)) is not None}
    if found:
        return max(found, key=lambda role: len(found[role]))
    words = [word for word in re.split(r"[._/:]", bare) if word and not word.isdigit()]
    return words[-1] if words else name


def block_of(name: str) -> str:
    """The part of a name up to its first number: the block of a network that a layer stands in; empty where there is none.

    Example:
        >>> block_of("model.layers.3.self_attn.q_proj.weight")
        'model.layers.3'
    """
    match = _BLOCK.match(name)
    return match[1] if match else ""


__all__ = ["block_of", "role_of"]
