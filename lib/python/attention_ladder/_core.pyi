from typing import Any

def run(
    query: object,
    key: object,
    value: object,
    out: object,
    mask: object | None,
    logsumexp: object | None,
    causal: int,
    scale: float | None,
    tier: str,
    stream: int,
    threads: int,
    bfloat16_bits: bool,
    max_relative_error: float,
) -> None: ...
def scratch_bytes(
    query: object,
    key: object,
    value: object,
    out: object,
    mask: object | None,
    logsumexp: object | None,
    causal: int,
    scale: float | None,
    tier: str,
    stream: int,
    threads: int,
    bfloat16_bits: bool,
    max_relative_error: float,
) -> int: ...
def explain(
    query: object,
    key: object,
    value: object,
    out: object,
    mask: object | None,
    logsumexp: object | None,
    causal: int,
    scale: float | None,
    tier: str,
    stream: int,
    threads: int,
    bfloat16_bits: bool,
    max_relative_error: float,
) -> tuple[str, list[tuple[str, bool, str, float, int]]]: ...
def tiers() -> list[dict[str, Any]]: ...
def generate(
    generator: str, B: int, Hq: int, H: int, L: int, S: int, E: int, Ev: int, seed: int
) -> tuple[Any, Any, Any]: ...
def generators() -> list[tuple[str, str]]: ...
