"""Which page teaches which name of the API: pages say so with {{teaches name name ...}}, and Doxygen
reads the headers through this filter, which adds the link back to the name's own text.

    docs/tools/taught.py HEADER    prints the header, line for line (INPUT_FILTER in Doxyfile.in)
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
ELSEWHERE = "design"  # teaches what no page claims
DECLARATION = re.compile(r"(?:enum class|struct|class|using) (\w+)|(?:^|[\s*&])(\w+)\(|"
                         r"inline constexpr .*?(\w+)(?:\{| =)")


def claims():
    """{name: page}, from the English pages."""
    found = {}
    for path in sorted((ROOT / "docs").glob("*.dox")):
        for names in re.findall(r"\{\{teaches ([^}]*)\}\}", path.read_text()):
            found.update({name: path.stem for name in names.split()})
    return found


def names_of(text):
    """[(line of the last documenting comment, name)] of all that namespace attn declares."""
    found, depth, comment, said = [], 0, None, False
    for number, line in enumerate(text.split("\n")):
        code = re.sub(r"//.*|\"[^\"]*\"|decltype\(auto\)", "", line)
        if depth == 1:
            if line.startswith("///"):
                said = "Taught in" in line or said and comment is not None  # by hand
                comment = None if re.match(r"/// \\(end)?cond", line) else number
            elif comment is not None and code.strip() and not code.startswith(("template", "requires",
                                                                               " ")):
                match = DECLARATION.search(code)
                name = next((n for n in match.groups() if n), None) if match else None
                if name and not said:
                    found.append((comment, name))
                comment, said = None, False
        depth += code.count("{") - code.count("}")
    return found


def main():
    path = pathlib.Path(sys.argv[1])
    text = path.read_text()
    lines, taught = text.split("\n"), claims()
    for number, name in names_of(text):
        page = taught.get(name, ELSEWHERE)
        lines[number] += f" \\taughtin{{{'index' if page == 'start' else page}}}"
    sys.stdout.write("\n".join(lines))


if __name__ == "__main__":
    main()
