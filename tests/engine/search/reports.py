"""Reads what a search's report says."""


def section(report, heading):
    return report.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def rows(text, first):
    """The cells of the table whose head begins with `first`."""
    lines = text.splitlines()
    begin = next(at for at, line in enumerate(lines) if line.startswith(f"| {first} |"))
    table = []
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def shown(one):
    low, high = one.interval
    return f"{one.robust_acc:.1%} ({100 * low:.1f}-{100 * high:.1f})"
