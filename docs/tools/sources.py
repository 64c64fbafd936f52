"""Which files are a tier's, what they say, and how far they are from those of the tier below."""
import re


def names(root):
    text = (root / "lib/tiers.def").read_text()
    return re.findall(r"(?m)^ATTN_[CG]PU_TIER\((\w+)", text)


def tests_of(root):
    """Names of all tests: doctest's cases and those that CMake adds."""
    found = set()
    for path in [*root.glob("tests/**/test_*.c*"), *root.glob("tests/**/CMakeLists.txt")]:
        found.update(re.findall(r'(?:TEST_CASE\(|add_test\(NAME )"([^"]+)"', path.read_text()))
    return found


def files_of(root, name):
    """Its main file first. int8_pv32.cpp is not a file of int8, but int8_dot.hpp is one of both."""
    longer = [other for other in names(root) if other != name and other.startswith(name)]
    if family := max((o for o in names(root) if name.startswith(o + "_")), key=len, default=None):
        shared = [path for path in files_of(root, family) if path.stem != family]
        return [*own_files(root, name, longer), *shared]
    return own_files(root, name, longer)


def own_files(root, name, longer):
    found = []
    for folder in ("cpu", "gpu"):
        for path in sorted((root / folder).glob(f"{name}*")):
            stem = path.name.split(".")[0]
            mine = stem == name or stem.startswith(name + "_")
            if mine and not any(stem == o or stem.startswith(o + "_") for o in longer):
                found.append(path)
    return sorted(found, key=lambda path: (path.name.split(".")[0] != name, path.suffix == ".hpp",
                                           path.name))


def included(root, name, base):
    """The files of tier `base` that tier `name` takes over by including them."""
    theirs = {path.name: path for path in files_of(root, base)}
    found, todo = [], files_of(root, name)
    while todo:
        for header in re.findall(r'#include "([^"]+)"', todo.pop().read_text()):
            if header in theirs and theirs[header] not in found:
                found.append(theirs[header])
                todo.append(theirs[header])
    return found


def code_of(root, name, without=()):
    """All lines of a tier's files, without comments, markers and blank lines."""
    lines = []
    for path in files_of(root, name):
        if path in without:
            continue
        for line in path.read_text().split("\n"):
            line = re.sub(r"//.*", "", line).rstrip()
            if line.strip():
                lines.append(line)
    return lines


def limits_of(root, name):
    """The limits that a tier's registry entry states in its source, or None if they cannot be read:
    for a site that was built without the compiler of that tier. Same keys as in docs_facts."""
    text = "".join(path.read_text() for path in files_of(root, name))
    entry = re.search(rf"const Tier (?:attn::)?tier_{name} = \{{.*?\n\}};", text, re.S)
    at = entry[0].find(".limits = {") if entry else -1
    if at < 0:
        return None
    depth, end = 1, at + len(".limits = {")
    while depth:
        depth += {"{": 1, "}": -1}.get(entry[0][end], 0)
        end += 1
    stated = re.sub(r"//.*", "", entry[0][at + len(".limits = {"):end - 1])
    floats = ["float64", "float32", "float16", "bfloat16"]
    has = {"dtypes": [], "boolean_mask": True, "additive_mask": True, "causal": True,
           "grouped_heads": True, "logsumexp": True, "max_head_dim": 0, "error_limit": 0,
           "requires": ""}
    for key, value in re.findall(r"\.(\w+) = (\{[^}]*\}|\"[^\"]*\"|[\w.]+)", stated):
        if key == "dtypes":
            listed = re.findall(r"DType::(\w+)", value)
            has[key] = [d for d in floats if d in listed or value == "all_floats"]
        elif key == "requires_":
            has["requires"] = value.strip('"')
        elif key == "max_head_dim" and value.isdigit():
            has[key] = int(value)
        elif key == "error_limit" and re.fullmatch(r"[\d.]+", value):
            has[key] = float(value)
        elif key in has and value in ("true", "false"):
            has[key] = value == "true"
        else:
            return None
    return has if has["dtypes"] else None
