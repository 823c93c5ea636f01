"""A small GPT, and a text to train it on: what task.py and own_loop.py both train."""

import inspect

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """Attention and a perceptron, each beside what skips it."""

    def __init__(self, width, heads, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (
            one.view(batch, length, self.heads, -1).transpose(1, 2)
            for one in self.qkv(self.norm1(x)).split(width, dim=2)
        )
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        seen = self.out(seen.transpose(1, 2).reshape(batch, length, width))
        x = x + F.dropout(seen, self.dropout, self.training)
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """Predicts the next token; its embedding and its last layer are one matrix."""

    def __init__(self, vocabulary, length=32, width=32, layers=2, heads=4, dropout=0.1):
        super().__init__()
        self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.apply(self._initialise)
        self.head.weight = self.token.weight

    def _initialise(self, module):
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)

    def forward(self, tokens):
        x = self.token(tokens) + self.place(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Text:
    """The source of a module of torch's, in windows of characters and the ones that follow."""

    def __init__(self, length=32, most=20_000):
        text = inspect.getsource(F)[:most]
        known = {character: number for number, character in enumerate(sorted({*text}))}
        self.vocabulary = len(known)
        self.tokens = torch.tensor([known[character] for character in text])
        self.length = length

    def __len__(self):
        return (len(self.tokens) - 1) // self.length

    def __getitem__(self, index):
        start = index * self.length
        window = self.tokens[start : start + self.length + 1]
        return window[:-1], window[1:]
