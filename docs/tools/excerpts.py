r"""Copies of the sources, for \snippet and \include.

Doxygen 1.9.4 shows an excerpt with the indent it has in its file. In these copies each region
between two `//! [tag]` markers starts at the left margin. A region longer than LONGEST lines stops
the build: a page shows one thought at a time.
"""
import re
import sys

LONGEST = 25
FOLDERS = ["lib", "cpu", "gpu", "tests", "docs/exercises", "docs/tools", "docs/examples"]
SUFFIXES = {".hpp", ".cpp", ".cu", ".cuh", ".def", ".py"}
MARK = re.compile(r"^(\s*)//!? \[([^\]]+)\]\s*$")  # plain // in headers that Doxygen reads


def dedented(text):
    lines, indents, open_tags = [], [], []
    for line in text.split("\n"):
        mark = MARK.match(line)
        if mark:
            indent, tag = mark.groups()
            if tag in open_tags:
                at = open_tags.index(tag)
                del open_tags[at], indents[at]
            else:
                open_tags.append(tag)
                indents.append(len(indent))
            lines.append(f"//! [{tag}]")
            continue
        cut = indents[-1] if indents else 0
        lines.append(line[cut:] if line[:cut].strip() == "" else line)
    return "\n".join(lines)


def unmarked(text):
    return "\n".join(line for line in text.split("\n") if not MARK.match(line))


def region(text, tag):
    """The lines between two markers, or None."""
    parts = re.split(rf"(?m)^\s*//!? \[{re.escape(tag)}\]\s*\n", text)
    return parts[1] if len(parts) == 3 else None


def check(page, text, root):
    r"""Stops the build at a \snippet that is missing or too long."""
    for path, tag in re.findall(r"\\snippet\s+(\S+)\s+(.+)", text):
        source = root / path
        lines = region(source.read_text(), tag.strip()) if source.exists() else None
        if lines is None:
            sys.exit(f"docs: {page}: {path} has no region [{tag.strip()}]")
        if lines.count("\n") > LONGEST:
            sys.exit(f"docs: {page}: [{tag.strip()}] of {path} has {lines.count(chr(10))} lines, "
                     f"more than {LONGEST}")


def write(root, work):
    for folder in FOLDERS:
        for source in sorted((root / folder).rglob("*")):
            if source.suffix not in SUFFIXES or not source.is_file():
                continue
            text = source.read_text()
            for kind, copy in (("excerpts", dedented(text)), ("whole", unmarked(text))):
                target = work / kind / source.relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(copy)
