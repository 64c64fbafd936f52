"""The table of tiers in README.zh-CN.md, from lib/tiers.def and the titles of docs/zh/tier_*.dox.

    docs/tools/ladder_zh.py    rewrites it; docs/tools/check.py fails when it differs
"""
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = ROOT / "README.zh-CN.md"
MARKS = re.compile(r"(<!-- 阶梯：.*? -->\n).*?(<!-- 阶梯结束 -->)", re.S)


def table():
    lines = ["| 级 | 设备 | 基于 | 新增的唯一想法 |", "|---|---|---|---|"]
    text = (ROOT / "lib/tiers.def").read_text()
    for device, name, base in re.findall(r"(?m)^ATTN_([CG]PU)_TIER\((\w+), *(\w+)", text):
        page = ROOT / f"docs/zh/tier_{name}.dox"
        title = re.search(r"\\page \w+ .*?：(.*)", page.read_text()) if page.exists() else None
        file = f"cpu/{name}.cpp" if device == "CPU" else f"gpu/{name}.cu"
        lines.append(f"| [`{name}`]({file}) | {device} | {'无' if base == 'nothing' else base} | "
                     f"{title[1] if title else ''} |")
    return "\n".join(lines) + "\n"


def fresh(readme):
    return MARKS.sub(lambda match: match[1] + table() + match[2], readme)


if __name__ == "__main__":
    README.write_text(fresh(README.read_text()))
