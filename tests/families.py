"""Small instances of the families that come with the package: transformers' own, and modules with the names of other libraries."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from weightspace.experiments.real_networks import Block

IDS = torch.arange(16).reshape(2, 8) * 5 % 61 + 2
IMAGE = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)


@dataclass(frozen=True)
class Tiny:
    """A tiny network, on what it runs, and what its configuration says."""

    module: nn.Module
    inputs: tuple[Tensor, ...]
    config: Mapping[str, Any]


class Outputs(nn.Module):
    """A model of transformers with plain tensors for outputs; its state dict is the model's own."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Any:
        name = type(self.model).__name__
        if name == "T5ForConditionalGeneration":
            return self.model(input_ids=inputs[0], decoder_input_ids=inputs[1], use_cache=False).logits
        if name == "CLIPModel":
            made = self.model(input_ids=inputs[0], pixel_values=inputs[1])
            return made.logits_per_image, made.text_embeds, made.image_embeds
        made = self.model(*inputs)
        return made.logits if "logits" in made else (made.last_hidden_state, made.pooler_output)


def _transformers(build: Callable[[Any], Any], *inputs: Tensor) -> Callable[[], Tiny]:
    def make() -> Tiny:
        import transformers

        transformers.logging.set_verbosity_error()
        torch.manual_seed(0)
        model = build(transformers)
        config = {key: value for key, value in model.config.to_dict().items() if value is not None}
        return Tiny(Outputs(model).eval(), inputs, config)

    return make


def _module(build: Callable[[], nn.Module], *inputs: Tensor, **config: Any) -> Callable[[], Tiny]:
    def make() -> Tiny:
        torch.manual_seed(0)
        return Tiny(build().eval(), inputs, config)

    return make


class ResNet(nn.Module):
    """A residual network by torchvision's names: a stem, stages of two blocks each, a linear head."""

    def __init__(self, stem: int, widths: tuple[int, ...], *, narrow: int = 0, pad: bool = False, head: str = "fc") -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem)
        self.stages, before = len(widths), stem
        for at, width in enumerate(widths, 1):
            blocks = [Block(before, width, 1 if at == 1 else 2, narrow=narrow, pad=pad), Block(width, width, 1, narrow=narrow, pad=pad)]
            setattr(self, f"layer{at}", nn.Sequential(*blocks))
            before = width
        setattr(self, head, nn.Linear(before, 5))
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        for at in range(1, self.stages + 1):
            x = getattr(self, f"layer{at}")(x)
        made: Tensor = getattr(self, self.head)(x.mean((2, 3)))
        return made


class Vgg(nn.Module):
    """VGG by torchvision's names: two convolutions and a pooling, twice."""

    def __init__(self, *, norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in (6, 8):
            # torchvision's smallest have one convolution before the first pooling, so that layer 3 is one with and without norms
            layers += [nn.Conv2d(before, width, 3, padding=1), *([nn.BatchNorm2d(width)] if norm else []), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if not norm or width == 8 else []
            before = width
        self.features = nn.Sequential(*layers)
        head = [nn.Linear(8 * 4, 10), nn.ReLU(), nn.Dropout(), nn.Linear(10, 7), nn.ReLU(), nn.Dropout(), nn.Linear(7, 3)]
        self.classifier = nn.Sequential(*head)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.classifier(functional.adaptive_avg_pool2d(self.features(x), 2).flatten(1))
        return made


class Tiny10(nn.Module):
    """Eight convolutions with batch norms and a linear layer."""

    def __init__(self, widths: Sequence[int] = (4, 4, 6, 6, 6, 8, 8, 8), classes: int = 5) -> None:
        super().__init__()
        before = 3
        for at, width in enumerate(widths, 1):
            setattr(self, f"conv{at}", nn.Conv2d(before, width, 1 if at == 8 else 3, 2 if at in (3, 6) else 1, 0 if at == 8 else 1))
            setattr(self, f"bn{at}", nn.BatchNorm2d(width))
            before = width
        self.fc = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        for at in range(1, 9):
            x = functional.relu(getattr(self, f"bn{at}")(getattr(self, f"conv{at}")(x)))
        made: Tensor = self.fc(x.mean((2, 3)))
        return made


class _Attention(nn.Module):
    """Attention with query, key and value in one matrix, as timm has it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        made: Tensor = self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return made


class _Mlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return made


class _TimmBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = nn.LayerNorm(width), _Attention(width, 4), nn.LayerNorm(width), _Mlp(width, 20)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        made: Tensor = x + self.mlp(self.norm2(x))
        return made


class TimmViT(nn.Module):
    """A vision transformer by timm's names."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token, self.pos_embed = nn.Parameter(torch.randn(1, 1, 24)), nn.Parameter(torch.randn(1, 17, 24))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, 24, 8, 8)})
        self.blocks = nn.ModuleList([_TimmBlock(24), _TimmBlock(24)])
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        made: Tensor = self.head(self.norm(x)[:, 0])
        return made


class _TorchvisionLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 20), nn.GELU(), nn.Dropout(), nn.Linear(20, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.self_attention(y, y, y, need_weights=False)[0]
        made: Tensor = x + self.mlp(self.ln_2(x))
        return made


class _TorchvisionEncoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.randn(1, 17, width))
        self.layers = nn.Sequential()
        for at in range(2):
            self.layers.add_module(f"encoder_layer_{at}", _TorchvisionLayer(width))
        self.ln = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.ln(self.layers(x + self.pos_embedding))
        return made


class TorchvisionViT(nn.Module):
    """A vision transformer by torchvision's names."""

    def __init__(self) -> None:
        super().__init__()
        self.class_token, self.conv_proj = nn.Parameter(torch.randn(1, 1, 24)), nn.Conv2d(3, 24, 8, 8)
        self.encoder = _TorchvisionEncoder(24)
        self.heads = nn.ModuleDict({"head": nn.Linear(24, 5)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], 1)
        made: Tensor = self.heads["head"](self.encoder(x)[:, 0])
        return made


class _ConvNextBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_dw, self.norm, self.mlp = nn.Conv2d(width, width, 3, padding=1, groups=width), nn.LayerNorm(width), _Mlp(width, 4 * width)
        self.gamma = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.gamma * self.mlp(self.norm(self.conv_dw(x).permute(0, 2, 3, 1)))
        made: Tensor = x + y.permute(0, 3, 1, 2)
        return made


class _ChannelNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class TimmConvNeXt(nn.Module):
    """ConvNeXt by timm's names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 4, 4), _ChannelNorm(6))
        self.stages = nn.ModuleList()
        for before, width in ((0, 6), (6, 8)):
            downsample = nn.Sequential(_ChannelNorm(before), nn.Conv2d(before, width, 2, 2)) if before else nn.Identity()
            self.stages.append(nn.ModuleDict({"downsample": downsample, "blocks": nn.Sequential(_ConvNextBlock(width))}))
        self.head = nn.ModuleDict({"norm": nn.LayerNorm(8), "fc": nn.Linear(8, 3)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleDict)
            x = stage["blocks"](stage["downsample"](x))
        made: Tensor = self.head["fc"](self.head["norm"](x.mean((2, 3))))
        return made


_ENCODER = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
_DECODER = {"vocab_size": 64, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 6}
_SMALL = IMAGE[:, :, :16, :16]

TINY: dict[str, Callable[[], Tiny]] = {
    "llama": _transformers(lambda tf: tf.LlamaForCausalLM(tf.LlamaConfig(**_DECODER, num_key_value_heads=2)), IDS),
    "llama_tied": _transformers(lambda tf: tf.LlamaForCausalLM(tf.LlamaConfig(**_DECODER, num_key_value_heads=6, tie_word_embeddings=True)), IDS),
    "mistral": _transformers(lambda tf: tf.MistralForCausalLM(tf.MistralConfig(**_DECODER, num_key_value_heads=2)), IDS),
    "qwen2": _transformers(lambda tf: tf.Qwen2ForCausalLM(tf.Qwen2Config(**_DECODER, num_key_value_heads=2)), IDS),
    "gpt2": _transformers(
        lambda tf: tf.GPT2LMHeadModel(
            tf.GPT2Config(vocab_size=64, n_positions=16, n_embd=48, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1)
        ),
        IDS,
    ),
    "gpt_neox": _transformers(
        lambda tf: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(vocab_size=64, **_ENCODER | {"hidden_size": 64}, eos_token_id=1)), IDS
    ),
    "bert": _transformers(lambda tf: tf.BertModel(tf.BertConfig(vocab_size=64, max_position_embeddings=16, **_ENCODER)), IDS),
    "bert_masked": _transformers(lambda tf: tf.BertForMaskedLM(tf.BertConfig(vocab_size=64, max_position_embeddings=16, **_ENCODER)), IDS),
    "bert_classifier": _transformers(
        lambda tf: tf.BertForSequenceClassification(tf.BertConfig(vocab_size=64, max_position_embeddings=16, **_ENCODER)), IDS
    ),
    "bert_tokens": _transformers(
        lambda tf: tf.BertForTokenClassification(tf.BertConfig(vocab_size=64, max_position_embeddings=16, **_ENCODER)), IDS
    ),
    "roberta": _transformers(lambda tf: tf.RobertaForMaskedLM(tf.RobertaConfig(vocab_size=64, max_position_embeddings=16, **_ENCODER)), IDS),
    "roberta_classifier": _transformers(
        lambda tf: tf.RobertaForSequenceClassification(tf.RobertaConfig(vocab_size=64, max_position_embeddings=16, **_ENCODER)), IDS
    ),
    "vit": _transformers(lambda tf: tf.ViTForImageClassification(tf.ViTConfig(image_size=32, patch_size=8, **_ENCODER)), IMAGE),
    "t5": _transformers(
        lambda tf: tf.T5ForConditionalGeneration(tf.T5Config(vocab_size=64, d_model=48, d_kv=8, d_ff=96, num_layers=2, num_heads=4)), IDS, IDS
    ),
    "t5_gated": _transformers(
        lambda tf: tf.T5ForConditionalGeneration(
            tf.T5Config(vocab_size=64, d_model=32, d_kv=4, d_ff=40, num_layers=1, num_heads=4, feed_forward_proj="gated-gelu")
        ),
        IDS,
        IDS,
    ),
    "clip": _transformers(
        lambda tf: tf.CLIPModel(
            tf.CLIPConfig(
                text_config={
                    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                    "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 2,
                },
                vision_config={**_ENCODER, "image_size": 32, "patch_size": 8},
                projection_dim=24,
            )
        ),
        IDS,
        IMAGE,
    ),
    "convnext": _transformers(
        lambda tf: tf.ConvNextForImageClassification(tf.ConvNextConfig(hidden_sizes=[16, 24], depths=[2, 2], num_stages=2)), IMAGE
    ),
    "resnet_transformers": _transformers(
        lambda tf: tf.ResNetForImageClassification(
            tf.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], layer_type="basic")
        ),
        IMAGE,
    ),
    "resnet_transformers_wide": _transformers(
        lambda tf: tf.ResNetForImageClassification(tf.ResNetConfig(embedding_size=8, hidden_sizes=[16, 24], depths=[1, 2], layer_type="basic")),
        IMAGE,
    ),
    "resnet_transformers_bottleneck": _transformers(
        lambda tf: tf.ResNetForImageClassification(
            tf.ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[2, 2], layer_type="bottleneck")
        ),
        IMAGE,
    ),
    "resnet_transformers_narrow": _transformers(
        lambda tf: tf.ResNetForImageClassification(
            tf.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="bottleneck")
        ),
        IMAGE,
    ),
    "resnet": _module(lambda: ResNet(6, (6, 8, 10, 12)), _SMALL),
    "resnet_cifar_b": _module(lambda: ResNet(6, (6, 8, 10)), _SMALL),
    "resnet_wide_stem": _module(lambda: ResNet(5, (6, 8, 10)), _SMALL),
    "resnet_bottleneck": _module(lambda: ResNet(6, (12, 16), narrow=4), _SMALL),
    "resnet_cifar_a": _module(lambda: ResNet(4, (4, 8, 16), pad=True, head="linear"), _SMALL),
    "vgg": _module(lambda: Vgg(norm=False), _SMALL),
    "vgg_norm": _module(lambda: Vgg(norm=True), _SMALL),
    "tiny10": _module(Tiny10, _SMALL),
    "vit_timm": _module(TimmViT, IMAGE, num_heads=4),
    "vit_torchvision": _module(TorchvisionViT, IMAGE, num_heads=4),
    "convnext_timm": _module(TimmConvNeXt, IMAGE),
}  # fmt: skip
"""Each family that comes with the package, small."""
