"""Which files are a tier's, and how far they are from those of the tier it builds on."""
import re


def names(root):
    text = (root / "lib/tiers.def").read_text()
    return re.findall(r"(?m)^ATTN_[CG]PU_TIER\((\w+)", text)


def files_of(root, name):
    """Its main file first. cuda_int8_hopper.cu is not a file of cuda_int8."""
    longer = [other for other in names(root) if other != name and other.startswith(name)]
    found = []
    for folder in ("cpu", "gpu"):
        for path in sorted((root / folder).glob(f"{name}*")):
            stem = path.name.split(".")[0]
            mine = stem == name or stem.startswith(name + "_")
            if mine and not any(stem == o or stem.startswith(o + "_") for o in longer):
                found.append(path)
    return sorted(found, key=lambda path: (path.name.split(".")[0] != name, path.suffix == ".hpp",
                                           path.name))


def code_of(root, name):
    """All lines of a tier's files, without comments, markers and blank lines."""
    lines = []
    for path in files_of(root, name):
        for line in path.read_text().split("\n"):
            line = re.sub(r"//.*", "", line).rstrip()
            if line.strip():
                lines.append(line)
    return lines
