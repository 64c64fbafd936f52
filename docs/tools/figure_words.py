"""What the figures say, in Chinese. Figures are written in English; `figures.save` sends each text through
here. A figure of one tier's page brings its own table, ZH, beside its drawing.

{} stands for anything; what stood there is translated too. Names stay as they are (the API's, the tiers', PyTorch's); any other English
word without a translation stops the build.
"""
import re
import sys

import matplotlib.backends.backend_svg
import matplotlib.text
import matplotlib.ticker

ZH = {
    # the code
    "key row": "键的行", "value row": "值的行", "touch of a row, in the order of the loops": "按循环次序的每次触碰",
    "row j": "第 j 行", "{}: one query row against 160 keys, recorded": "{}：一行查询对 160 个键，实录",
    "$K^T$, read,\nnot formed": "Kᵀ，只读，\n不构造", "scores, then P\n(L, S)": "得分，再成 P\n(L, S)",
    "scores of the tile": "块中的得分", "score": "得分", "tile": "块",
    "the inputs themselves": "输入本身", "bytes of working memory": "工作内存的字节",
    "(B, H, E) = (1, 8, 64), float32, one thread; from the registry":
        "(B, H, E) = (1, 8, 64)，float32，单线程；来自注册表",
    "worst error / bound": "最大误差 / 界",
    "float32; at 1 the judge says no; computed when this site was built":
        "float32；到 1 裁判就不接受；构建本站时算出",
    # the records
    "not measured": "尚未测量", "{}; each panel has its own scale, from 0": "{}；每格各有刻度，从 0 起",
    "{}; each panel has its own scale, from 0; {} threads": "{}；每格各有刻度，从 0 起；{} 线程",
    "{}; each panel has its own scale, from 0; {} thread": "{}；每格各有刻度，从 0 起；单线程",
    "seconds of one call": "一次调用的秒数", "(B, Hq, H, E, Ev) = {}, {} threads": "(B, Hq, H, E, Ev) = {}，{} 线程",
    "(B, Hq, H, E, Ev) = {}, {} thread": "(B, Hq, H, E, Ev) = {}，单线程",
    "(B, Hq, H, E, Ev) = {}": "(B, Hq, H, E, Ev) = {}",
    "roof: best of the run": "上限：该次最好", "roof: worst of the run": "上限：该次最差",
    "flops per byte": "每字节的浮点运算", "bfloat16; roof: a bare mma.sync loop (the roof of reading: not measured)":
        "bfloat16；上限：只有 mma.sync 的循环（读的上限未测）",
    "{}, {} threads": "{}，{} 线程", "{}, {} thread": "{}，单线程",
    "flops of a call, one thread (lines: one head, L = S, E = 64)":
        "一次调用的浮点运算，单线程（线：一个头，L = S，E = 64）",
    "time / time of the fastest": "时间 / 最快者的时间",
    "lines: what auto estimates; dots: what was measured": "线：auto 的估计；点：实测",
    "time / cuda_mma's": "时间 / cuda_mma 的时间", "E = {}, {}": "E = {}，{}",
    "worst of all element types, lengths and head dimensions": "各元素类型、长度与头宽之中最差的",
    "limit {}": "限 {}", "no limit": "不限",
    "times as fast as simd": "相对 simd 的倍数",
    "one thread, quantization included; whiskers: 10 % to 90 % of the runs":
        "单线程，含量化；须线：10 % 到 90 % 的运行",
    "L = {}, E = {}, causal": "L = {}，E = {}，因果",
    "relative L2 error, worst head": "相对 L2 误差，最差的头",
    "L = {}, E = {}; a layer of a real model: L = {}, E = {}": "L = {}，E = {}；真实模型的一层：L = {}，E = {}",
}
# Words of names of cases, which records bring.
CASES = {"causal": "因果", "mask": "掩码", "decode": "解码", "small": "小", "ladder": "阶梯", "bool": "布尔",
         "additive": "加性", "shared": "共享", "window": "窗口", "heads": "头", "float32": "float32", "seed":
         "提问者的形状", "grouped": "分组", "length": "长度", "lower_right": "右下"}
NAMES = set("""torch default flash cudnn efficient openblas onnxruntime auto max min sum log exp shrink lse
    logsumexp float64 float32 float16 bfloat16 GFLOP TFLOP GiB MiB KiB Hq Ev captured softmax AVX SSE2
    AVX2 mma sync SageAttention""".split())


class Chinese:
    """Puts a figure into Chinese. A text with the attribute `from_record` is a record's, and keeps
    the words that are not known."""

    def __init__(self, facts, table=()):
        both = {**ZH, **dict(table)}
        # Longest first: the text that says most wins.
        self.patterns = [(re.compile("(.+?)".join(map(re.escape, english.split("{}"))), re.S), chinese)
                         for english, chinese in sorted(both.items(), key=lambda item: -len(item[0]))]
        self.names = NAMES | {one["name"] for kind in ("tiers", "generators") for one in facts[kind]}

    def __call__(self, figure):
        for axis in [a for axes in figure.axes for a in (axes.xaxis, axes.yaxis)]:
            written = axis.get_major_formatter()
            if isinstance(written, (matplotlib.ticker.FuncFormatter, matplotlib.ticker.FixedFormatter)):
                axis.set_major_formatter(lambda x, n, written=written: self.text(written(x, n)))
        for text in figure.findobj(matplotlib.text.Text):
            free = getattr(text, "from_record", False)
            text.set_text(of_a_case(text.get_text()) if free else self.text(text.get_text()))

    def text(self, english):
        said = english.strip()
        chinese = english.replace(said, self.translate(said)) if said else english
        plain = re.sub(r"[\w/]+\.(?:cu|cuh|hpp|cpp)\b|\$[^$]*\$", "", chinese)  # files, formulas
        unknown = [word for word in re.findall(r"(?<![\w./])[A-Za-z_][A-Za-z_]\w*", plain, re.A)
                   if word not in self.names]
        if unknown:
            sys.exit(f"docs: no Chinese for {', '.join(unknown)} in the figure text {english!r}: see "
                     "docs/tools/figure_words.py")
        return chinese

    def translate(self, text):
        for pattern, chinese in self.patterns:
            if match := pattern.fullmatch(text):
                return chinese.format(*(self.translate(part) for part in match.groups()))
        return text


def of_a_case(text):
    return re.sub(r"[a-z_]+\d*", lambda match: CASES.get(match[0], match[0]), text)


class WideCharacters:
    """Lets Matplotlib lay out Chinese without a font for it: each character is as wide as a W."""
    inherited = matplotlib.backends.backend_svg.RendererSVG.get_text_width_height_descent

    @staticmethod
    def measure(renderer, s, prop, ismath):
        return WideCharacters.inherited(renderer, re.sub("[\u2e80-\u9fff\uff00-\uffef]", "W", s),
                                        prop, ismath)


matplotlib.backends.backend_svg.RendererSVG.get_text_width_height_descent = WideCharacters.measure
