"""The words that the generated parts of a page need, in each language."""

WORDS = {
    "en": {
        "start": "Start", "course": "Course", "api": "API", "notebooks": "Notebooks",
        "measured": "Measured", "idea": "The idea", "level": "Level", "minutes": "Time",
        "minute_count": "about {} minutes", "before": "Read before", "hardware": "Hardware",
        "files": "Files", "nothing": "nothing", "any_machine": "any machine",
        "caption": "{machine}; {date}; source {source}; record docs/measured/{file}; "
                   "reproduce with `{command}`",
        "not_measured": "Not measured on this machine: no record in docs/measured/ holds {what}. "
                        "`./run bench` makes one.",
        "not_measured_inline": "(not measured on this machine)",
        "not_built": "This site was built without CUDA, so the limits of this tier are not known "
                     "to it. A build with CUDA fills this table.",
        "limit": "Limit", "value": "Value", "dtypes": "Element types",
        "boolean_mask": "Boolean mask", "additive_mask": "Additive mask", "causal": "Causal",
        "grouped_heads": "Grouped heads (Hq > H)", "logsumexp": "Returns logsumexp",
        "max_head_dim": "Largest E and Ev", "requires": "Needs", "yes": "yes", "no": "no",
        "any": "any", "parallel": "Uses several threads",
        "limits_note": "Made from the tier's registry entry, which the library itself obeys.",
        "case": "case", "median": "median", "scratch": "scratch", "error": "error / bound",
        "against": "against {}", "tier": "tier", "on": "on", "builds_on": "builds on",
        "adds": "the one idea it adds", "diff": "The difference to `{}`: {} lines of code added, "
        "{} removed", "whole": "The whole file {}", "all_files": "All {} files of this tier", "task": "Exercise {}", "hint": "Hint",
        "solution": "Solution", "try": "Edit `docs/exercises/{0}/start.cpp`, then run "
        "`./run exercise {0}`.", "previous": "Previous", "next": "Next", "query": "query",
        "shape_order": "(B, Hq, L, S, E)", "taken": "takes", "worst": "worst error / bound",
        "generator": "generator", "about": "what it draws", "dtype": "type", "tile": "tile",
        "scores": "scores in the tile", "shrink": "shrink", "max": "max", "sum": "sum",
        "computed": "Computed by the library when this site was built.",
        "no_notebooks": "None has landed in this tree yet.",
        "no_int8": "**What is not there yet:** no quantized tier has landed in this tree. When one "
                   "does, its table stands here.",
        "int8_tiers": "The quantized tiers in this tree: {}.",
        "time": "times of one shape at three or more lengths", "bars": "GFLOP/s",
        "roofline": "the ceilings of a machine", "threads": "threads", "spread": "spread (10 % to 90 %)",
        "no_speeds": "In this tree no speed has been recorded yet for {}: such tiers are all taken to be "
                     "equally slow, and among equals the simplest wins.", "rows": "{} rows", "rival": "who", "best": "best", "share": "share of a roof",
        "of_read": "of reading", "of_peak": "of the FMA peak", "torch_over": "torch / this",
        "mutant": "what is broken", "models": "the mistake it stands for",
        "anchor": "implementation", "title_key": "title",
        "bug": "left out or broken", "caught": "caught", "passes": "passes",
    },
    "zh": {
        "start": "起步", "course": "课程", "api": "API", "notebooks": "笔记本",
        "measured": "实测", "idea": "核心想法", "level": "难度", "minutes": "用时",
        "minute_count": "约 {} 分钟", "before": "先读", "hardware": "硬件",
        "files": "源文件", "nothing": "无", "any_machine": "任何机器",
        "caption": "{machine}；{date}；源码 {source}；记录 docs/measured/{file}；"
                   "复现命令 `{command}`",
        "not_measured": "本机尚未测量：docs/measured/ 中还没有 {what} 的记录。"
                        "运行 `./run bench` 即可生成。",
        "not_measured_inline": "（本机尚未测量）",
        "not_built": "本站构建时没有 CUDA，因此不知道这一级的限制。用带 CUDA 的构建即可补上此表。",
        "limit": "限制", "value": "取值", "dtypes": "元素类型",
        "boolean_mask": "布尔掩码", "additive_mask": "加性掩码", "causal": "因果",
        "grouped_heads": "分组头（Hq > H）", "logsumexp": "返回 logsumexp",
        "max_head_dim": "E 与 Ev 的上限", "requires": "需要", "yes": "支持", "no": "不支持",
        "any": "不限", "parallel": "使用多个线程",
        "limits_note": "由该级的注册项生成，库本身也遵守同一组字段。",
        "case": "用例", "median": "中位数", "scratch": "工作内存", "error": "误差 / 界",
        "against": "相对 {}", "tier": "级", "on": "设备", "builds_on": "基于",
        "adds": "新增的唯一想法", "diff": "与 `{}` 的差别：新增 {} 行代码，删去 {} 行",
        "whole": "完整文件 {}", "all_files": "这一级的全部 {} 个文件", "task": "练习 {}", "hint": "提示",
        "solution": "答案", "try": "修改 `docs/exercises/{0}/start.cpp`，然后运行 "
        "`./run exercise {0}`。", "previous": "上一页", "next": "下一页", "query": "查询",
        "shape_order": "(B, Hq, L, S, E)", "taken": "选择", "worst": "最大误差 / 界",
        "generator": "生成器", "about": "生成什么", "dtype": "类型", "tile": "块",
        "scores": "块中的得分", "shrink": "shrink", "max": "max", "sum": "sum",
        "computed": "由库在构建本站时计算得出。",
        "no_notebooks": "本源码树中还没有笔记本。",
        "no_int8": "<b>还没有的：</b> 本源码树中还没有量化的级。等它到来，它的实测表会出现在这里。",
        "int8_tiers": "本源码树中的量化级：{}。",
        "time": "同一形状在三种以上长度下的时间", "bars": "GFLOP/s",
        "roofline": "机器上限", "threads": "线程", "spread": "离散（10 % 至 90 %）",
        "no_speeds": "本源码树中还没有记录 {} 的速度：这些级都被当作同样慢，相等时最简单的胜出。",
        "rows": "{} 行", "rival": "谁", "best": "最好", "share": "占上限的份额",
        "of_read": "（读带宽）", "of_peak": "（FMA 峰值）", "torch_over": "torch / 本项",
        "mutant": "弄坏了什么", "models": "代表的错误",
        "anchor": "实现", "title_key": "title_zh",
        "bug": "被省略或写错的部分", "caught": "发现", "passes": "漏过",
    },
}
