"""Small networks of every kind that is traced."""

# mypy: disable-error-code="no-any-return, no-untyped-call"

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.GroupNorm(3, 12)
        self.fc1, self.fc2 = nn.Linear(12 * 4, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.max_pool2d(F.gelu(self.norm2(self.conv2(x))), 2)
        return self.fc2(torch.tanh(self.fc1(x.flatten(1))))


class PaddedShortcut(nn.Module):
    """The parameter-free shortcut of CIFAR ResNets ("option A"): strided, with zero channels before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1, self.norm1 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        y = F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))
        return self.head(y.mean((2, 3)))


class DenseBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
        self.norm, self.conv3 = nn.BatchNorm2d(10), nn.Conv2d(10, 5, 1)
        self.head = nn.Linear(5 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = torch.cat([x, self.conv2(F.silu(x))], 1)
        return self.head(F.adaptive_avg_pool2d(F.silu(self.conv3(F.silu(self.norm(x)))), 2).flatten(1))


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(3, 12, 1)
        self.depthwise, self.grouped = nn.Conv1d(12, 12, 3, groups=12), nn.Conv1d(12, 8, 3, groups=4)
        self.up, self.head = nn.ConvTranspose1d(8, 6, 2, stride=2), nn.Conv1d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.depthwise(F.silu(self.stem(x))))
        return self.head(F.silu(self.up(F.interpolate(F.silu(self.grouped(x)), scale_factor=2))))


class FusedGlu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate_up, self.down, self.head = nn.Linear(3, 6), nn.Linear(6, 16), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.head(F.silu(self.down(F.silu(gate) * up) + x))


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.attention, self.head = nn.Linear(3, 12), nn.MultiheadAttention(12, 3, batch_first=True), nn.Linear(12, 2)
        self.norm = nn.LayerNorm(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        return self.head((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


class TimmAttention(nn.Module):
    """Attention as vision transformers write it: one view as (3, heads, size), moved in front and unbound."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.proj, self.head = nn.Linear(3, 12), nn.Linear(12, 36), nn.Linear(12, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.stem(x))
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))
        return self.head(F.gelu(x))


class Einsum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 6)
        self.q, self.k = nn.Parameter(torch.randn(2, 6, 4)), nn.Parameter(torch.randn(2, 6, 4))
        self.v, self.o = nn.Parameter(torch.randn(2, 6, 5)), nn.Parameter(torch.randn(2, 5, 6))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.stem(x))
        scores = torch.einsum("btm,hmd,bsn,hnd->bhts", x, self.q, x, self.k).softmax(-1)
        values = torch.einsum("bhts,bsm,hmd->bthd", scores, x, self.v)
        return self.head(torch.sigmoid(x + torch.einsum("bthd,hdm->btm", values, self.o)))


class Experts(nn.Module):
    """A dense mixture: experts permute together with the router's rows, each has hidden units of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.router, self.head = nn.Linear(3, 6), nn.Linear(6, 4), nn.Linear(6, 2)
        self.up, self.down = nn.Parameter(torch.randn(4, 6, 5)), nn.Parameter(torch.randn(4, 5, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.stem(x))
        weights = self.router(x).softmax(-1)
        hidden = F.gelu(torch.einsum("bm,emh->beh", x, self.up))
        return self.head(torch.sigmoid(torch.einsum("beh,ehm,be->bm", hidden, self.down, weights)))


class Recurrent(nn.Module):
    def __init__(self, kind: str, **options: int) -> None:
        super().__init__()
        self.layer: nn.Module = getattr(nn, kind)(3, 5, batch_first=True, **options)
        self.head = nn.Linear(5 * (2 if options.get("bidirectional") else 1), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0])


class LastState(nn.Module):
    """Reads the last layer's state, not the output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(3, 5, num_layers=2), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[1][0][-1])


class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base, self.head = nn.Linear(4, 6), nn.Linear(6, 2)
        self.lora_A, self.lora_B = nn.Linear(4, 3, bias=False), nn.Linear(3, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(self.base(x) + 0.5 * self.lora_B(self.lora_A(x))))


class RoundStream(nn.Module):
    """A residual stream that meets RMS normalisation without gain: it may be turned about."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down, self.head = nn.Linear(4, 6), nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.down(F.gelu(self.up(F.rms_norm(x, (6,), eps=1e-3))))
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3)
        return self.head(x)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc, self.head = nn.Embedding(7, 6), nn.Linear(6, 6), nn.Linear(6, 7, bias=False)
        self.head.weight = self.embed.weight
        self.unread = nn.Linear(6, 6)
        self.register_buffer("shift", torch.randn(6))
        self.register_buffer("mask", torch.ones(6, 6, dtype=torch.bool))
        self.register_buffer("scratch", torch.randn(6), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.head(x + F.gelu(self.fc(x)) + self.shift)


class Ranked(nn.Module):
    """The largest units go on, by rank."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(self.fc2(F.gelu(self.fc1(x))).topk(3, -1).values)


class Gathered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.fc = nn.Parameter(torch.randn(9, 6)), nn.Linear(6, 2)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        picked = self.table[places] + self.table.index_select(0, places[0]) + self.table.gather(0, places[:, :1].expand(-1, 6))[:, None]
        return self.fc(F.gelu(picked * x))


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.fft.rfft(self.fc1(x)).abs() @ torch.ones(4, 6)
        return self.fc3(F.gelu(self.fc2(x)))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if x.sum() > 0 else x


class Instance(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv3d(2, 6, 2), nn.InstanceNorm3d(6, affine=True), nn.Conv3d(6, 4, 1)
        self.up, self.head = nn.ConvTranspose3d(4, 6, 2, groups=2), nn.Conv3d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.silu(self.up(F.silu(self.conv2(F.silu(self.norm(self.conv1(x))))))))


class Sliced(nn.Module):
    """Ranges, single units, stacks and strides of hidden units."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 12), nn.Linear(12, 12)
        self.fc3, self.fc4 = nn.Linear(5, 6), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.fc1(x))
        y = F.gelu(self.fc2(x))
        first, second, third = y.split([5, 5, 2], -1)
        z = F.gelu(self.fc3(first * second + y[:, 11:] + third[:, :1]))
        return self.fc4(torch.stack([z, z * 2], -1).flatten(1))
