"""The library behind its C door (tests/gpu/door.cpp), for torch tensors on a GPU."""
import ctypes

import torch

DTYPES = {torch.float64: 0, torch.float32: 1, torch.float16: 2, torch.bfloat16: 3, torch.bool: 4}
CAUSAL = {None: 0, "upper_left": 1, "lower_right": 2}


class _Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("dtype", ctypes.c_int), ("rank", ctypes.c_int),
                ("shape", ctypes.c_int64 * 4), ("stride", ctypes.c_int64 * 4)]


def _of(tensor):
    if tensor is None:
        return None
    pad = [0] * (4 - tensor.dim())
    return _Tensor(tensor.data_ptr(), DTYPES[tensor.dtype], tensor.dim(),
                   (ctypes.c_int64 * 4)(*tensor.shape, *pad),
                   (ctypes.c_int64 * 4)(*tensor.stride(), *pad))


class Door:
    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        self.lib.door_error.restype = ctypes.c_char_p

    def prepare(self, tier, query, key, value, out, mask=None, causal=None, scale=None,
                logsumexp=None):
        """A function that queues the call on torch's current stream at each use."""
        tensors = [_of(t) for t in (query, key, value, out, mask, logsumexp)]
        references = [ctypes.byref(t) if t is not None else None for t in tensors]
        name = tier.encode()
        device = query.device.index or 0

        def call(keep=(query, key, value, out, mask, logsumexp, tensors)):
            stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
            if self.lib.door_attention(name, *references, CAUSAL[causal],
                                       ctypes.c_double(scale or 0.0), int(scale is not None),
                                       device, stream):
                raise RuntimeError(self.lib.door_error().decode())
        return call
