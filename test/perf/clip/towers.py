"""CLIP ViT-B/32 as a plain torch module, under OpenAI's names."""
import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, width, heads, quick):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))
        self.ln_2 = nn.LayerNorm(width)
        self.heads, self.quick = heads, quick

    def forward(self, x, causal):
        n, tokens, width = x.shape
        qkv = F.linear(self.ln_1(x), self.attn.in_proj_weight, self.attn.in_proj_bias)
        q, k, v = (part.view(n, tokens, self.heads, -1).transpose(1, 2) for part in qkv.chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        x = x + self.attn.out_proj(y.transpose(1, 2).reshape(n, tokens, width))
        y = self.mlp.c_fc(self.ln_2(x))
        y = y * torch.sigmoid(1.702 * y) if self.quick else F.gelu(y)
        return x + self.mlp.c_proj(y)


class Blocks(nn.Module):
    def __init__(self, width, layers, heads, quick):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, quick) for _ in range(layers))

    def forward(self, x, causal, seen=None):
        for i, block in enumerate(self.resblocks):
            x = block(x, causal)
            if seen is not None:
                seen[f"block{i + 1}"] = x
        return x


class Vision(nn.Module):
    def __init__(self, quick):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(768))
        self.positional_embedding = nn.Parameter(torch.zeros(50, 768))
        self.proj = nn.Parameter(torch.zeros(768, 512))
        self.conv1 = nn.Conv2d(3, 768, 32, 32, bias=False)
        self.ln_pre = nn.LayerNorm(768)
        self.transformer = Blocks(768, 12, 12, quick)
        self.ln_post = nn.LayerNorm(768)

    def forward(self, pictures, seen=None):
        x = self.conv1(pictures).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(x), 1, -1)
        x = self.ln_pre(torch.cat([first, x], 1) + self.positional_embedding)
        x = self.transformer(x, False, seen)
        return self.ln_post(x[:, 0]) @ self.proj


class Clip(nn.Module):
    def __init__(self, quick=True):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.zeros(77, 512))
        self.text_projection = nn.Parameter(torch.zeros(512, 512))
        self.logit_scale = nn.Parameter(torch.zeros([]))
        self.visual = Vision(quick)
        self.transformer = Blocks(512, 12, 8, quick)
        self.token_embedding = nn.Embedding(49408, 512)
        self.ln_final = nn.LayerNorm(512)

    def images(self, pictures, seen=None):
        return self.visual(pictures, seen)

    def texts(self, ids, seen=None):
        x = self.token_embedding(ids) + self.positional_embedding[:ids.shape[1]]
        x = self.ln_final(self.transformer(x, True, seen))
        return x[torch.arange(len(x)), ids.argmax(1)] @ self.text_projection
