# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Tables as text and Markdown, and the picture.

import json
import os
import statistics
from html import escape

from rows import Sample


def median(values):
    return statistics.median(values) if values else None


def figure(value):
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


# Rounds that agree by chance on who is faster: of so many one time in sixteen.
AGREEING = 5


def spread(ratios):
    """Their median, and half of the way from the least to the greatest: the noise."""
    if len(ratios) < 2:
        return figure(median(ratios))
    return f"{figure(median(ratios))} ±{figure((max(ratios) - min(ratios)) / 2)}"


class Line:
    """A row with its samples: by variant, a list over the rounds."""

    def __init__(self, group, row, samples, barriers=None):
        self.group, self.row, self.samples, self.barriers = group, row, samples, barriers

    def barrier_cells(self):
        """For each second of the row, as it was when nobody counted."""
        if not self.group.counted:
            return []
        seconds = median([sample.seconds for sample in self.samples.get(self.group.counted, []) if sample.seconds])
        return [figure(self.barriers / seconds if self.barriers is not None and seconds else None)]

    def value(self, name):
        return median([sample.value for sample in self.samples.get(name, [])])

    def cpu(self, name):
        return median([sample.cpu_us for sample in self.samples.get(name, []) if sample.cpu_us is not None])

    def ratios_of(self, name, others):
        """How many times as good as the best of the others, in each round."""
        mine = self.samples.get(name, [])
        ratios = []
        for turn, sample in enumerate(mine):
            theirs = [self.samples[other][turn].value for other in others
                      if turn < len(self.samples.get(other, []))]
            if not theirs or not sample.value:
                continue
            if self.row.more_is_better:
                ratios.append(sample.value / max(theirs) if max(theirs) else None)
            else:
                ratios.append(min(theirs) / sample.value)
        return [ratio for ratio in ratios if ratio]

    def ratio(self, name, others):
        return median(self.ratios_of(name, others))

    def cpu_ratio(self):
        us, limit = self.cpu(self.group.us), self.cpu(self.group.limit or self.group.rivals[0])
        return us / limit if us and limit else None

    @property
    def of_limit(self):
        return median(self.ratios_of_limit())

    @property
    def of_rivals(self):
        return median(self.ratios_of_rivals())

    @property
    def to_win(self):
        """Limit / rivals: what there is to be won."""
        return self.ratio(self.group.limit, self.group.rivals) if self.group.limit and self.group.rivals else None

    def ratios_of_limit(self):
        return self.ratios_of(self.group.us, [self.group.limit]) if self.group.limit else []

    def ratios_of_rivals(self):
        return self.ratios_of(self.group.us, self.group.rivals) if self.group.rivals else []

    def verdict(self):
        """"", "reached" or "missed"; with "?" if the rounds do not agree on it. Then what has
        changed since the earlier filter, where the rounds agree on that."""
        limit_goal, rival_goal = self.row.goal
        met = []  # of each goal: by the median, and in each round
        if limit_goal and self.of_limit:
            met.append((self.of_limit, self.ratios_of_limit(), limit_goal))
        if rival_goal and self.of_rivals and (self.to_win or 9) > self.row.when:
            met.append((self.of_rivals, self.ratios_of_rivals(), rival_goal))
        if self.row.at_most and self.value(self.group.us) is not None:
            met.append((-self.value(self.group.us), [-sample.value for sample in self.samples[self.group.us]],
                        -self.row.at_most))
        said = []
        if met:
            sure = all(min(each) >= goal for _, each, goal in met) or any(max(each) < goal for _, each, goal in met)
            said.append(("reached" if all(middle >= goal for middle, _, goal in met) else "missed") +
                        "?" * (not sure))
        for now, earlier in self.group.earlier.items():
            each = self.ratios_of(now, [earlier])
            if len(each) >= AGREEING and not min(each) <= 1 <= max(each):
                said.append("faster" if min(each) > 1 else "slower")
        return ", ".join(said)

    def cells(self):
        cells = [self.row.title, self.row.unit]
        cells += [figure(self.value(variant.name)) for variant in self.group.variants]
        cells += [spread(ratios) for ratios in self.ratios()]
        cells += [figure(self.cpu(variant.name)) for variant in self.group.variants if self.group.has_cpu]
        return cells + self.barrier_cells()

    def ratios(self):
        """Lists over the rounds."""
        group = self.group
        since = [self.ratios_of(now, [earlier]) for now, earlier in group.earlier.items()]
        if group.limit and group.rivals:
            return [self.ratios_of_limit(), self.ratios_of_rivals(),
                    self.ratios_of(group.limit, group.rivals)] + since
        if group.limit:
            return [self.ratios_of(name, [group.limit]) for name in group.beside_limit()] + since
        return [self.ratios_of_rivals()] + since

    def __str__(self):
        return text_line(self.cells() + [self.verdict()])


def head(group):
    titles = {variant.name: variant.title for variant in group.variants}
    cells = ["", "unit"] + [variant.title for variant in group.variants]
    if group.limit and group.rivals:
        cells += ["us / limit", "us / qemu", "limit / qemu"]
    elif group.limit:
        cells += [f"{titles[name]} / {titles[group.limit]}" for name in group.beside_limit()]
    else:
        cells += ["us / qemu"]
    cells += [f"{titles[now]} / earlier" for now in group.earlier]
    if group.has_cpu:
        cells += [f"CPU us, {variant.name}" for variant in group.variants]
    if group.counted:
        cells += ["barriers/s"]
    return cells


def text_line(cells):
    return f"{cells[0]:46} {cells[1]:>5}" + "".join(f" {cell:>12}" for cell in cells[2:])


def heading(group):
    return text_line([cell.replace("qemu-nbd, ", "qemu ").replace("nbdkit, ", "") for cell in head(group)])


class Table:
    def __init__(self, group, place):
        self.group, self.place, self.lines = group, place, []

    def add(self, row, samples, barriers=None):
        self.lines.append(Line(self.group, row, samples, barriers))

    @property
    def title(self):
        return f"{self.group.title}: images {'in memory' if self.place == 'memory' else 'on the local file system'}"

    def markdown(self):
        has_verdict = bool(self.group.earlier) or any(row.goal != (None, None) or row.at_most
                                                      for row in self.group.rows)
        cells = head(self.group) + ["goal"] * has_verdict
        lines = [f"### {self.title}", "", "| " + " | ".join(cells) + " |",
                 "|---|---|" + "---:|" * (len(cells) - 2)]
        for line in self.lines:
            verdict = [line.verdict() or "-"] * has_verdict
            lines.append("| " + " | ".join(line.cells() + verdict) + " |")
        return "\n".join(lines) + "\n"


# --- Files.


def write(folder, tables, note):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "results.json"), "w") as file:
        json.dump(dump(tables, note), file, indent=1)
    with open(os.path.join(folder, "bench.md"), "w") as file:
        file.write("\n".join(table.markdown() for table in tables))
        file.write(f"\nMedians of {note}. Ratios are such that more is better, medians of those within a round "
                   "± half of their range: what is not clear of that is noise, as is a verdict with \"?\", on which the "
                   "rounds do not agree; "
                   "CPU is the server's, for each request.\n")
    with open(os.path.join(folder, "bench.svg"), "w") as file:
        file.write(picture(tables, note))


def dump(tables, note):
    return {"note": note, "tables": [
        {"group": table.group.name, "place": table.place,
         "rows": [{"name": line.row.name, "barriers": line.barriers,
                   "samples": {name: [[sample.value, sample.cpu_us, sample.seconds] for sample in samples]
                               for name, samples in line.samples.items()}}
                  for line in table.lines]}
        for table in tables]}


def has_earlier(data):
    """Whether an earlier filter was measured, too."""
    return any(name.startswith("earlier-") for table in data["tables"] for row in table["rows"]
               for name in row["samples"])


def load(data, groups):
    tables = []
    for each in data["tables"]:
        group = next(group for group in groups if group.name == each["group"])
        table = Table(group, each["place"])
        rows = {row.name: row for row in group.rows}
        for row in each["rows"]:
            if row["name"] in rows:
                table.add(rows[row["name"]], {name: [Sample(*sample) for sample in samples]
                                              for name, samples in row["samples"].items()},
                          row.get("barriers"))
        tables.append(table)
    return tables, data["note"]


# --- The picture: for each row of a table a bar for us, one for the best of QEMU, and
# a line where the limit is. Where there is no limit, QEMU is 1.

LEFT, WIDTH, BAR, STEP, RIGHT = 300, 420, 9, 28, 60
STYLE = ("text{font:12px sans-serif;fill:#57606a}.t{font-weight:bold;fill:#24292f}.us{fill:#1a7f5a}"
         ".qemu{fill:#b6bec8}.one{stroke:#cf4b32;stroke-width:1.5}"
         "@media(prefers-color-scheme:dark){text{fill:#9aa4ae}.t{fill:#e6edf3}.qemu{fill:#4a535e}.us{fill:#3fb68b}}")


def picture(tables, note):
    parts, y = [], 24
    for table in tables:
        if not table.group.limit_words:
            continue
        limited = [(line, line.of_limit, 1 / line.to_win if line.to_win else None) for line in table.lines
                   if line.of_limit and line.row.goal[0]]
        others = [(line, line.of_rivals, 1.0) for line in table.lines
                  if line.of_rivals and not line.row.goal[0]]
        for title, bars, top in ((f"{table.title}; {table.group.limit_words} = 1", limited, 1.6),
                                 (f"{table.title}; {table.group.rival_words} = 1", others, 8.0)):
            if bars:
                drawn, y = panel(title, table.group.rival_words, bars, top, y)
                parts += drawn
    parts.append(f'<text x="8" y="{y + 8}">{escape(note)}</text>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + RIGHT} {y + 20}" '
            f'width="{LEFT + WIDTH + RIGHT}" role="img"><style>{STYLE}</style>\n' + "\n".join(parts) + "\n</svg>\n")


def panel(title, rival, bars, top, y):
    scale = WIDTH / top
    parts = [f'<text class="t" x="8" y="{y}">{escape(title)}</text>',
             f'<rect class="us" x="{LEFT + WIDTH - 150}" y="{y + 5}" width="10" height="10"/>'
             f'<text x="{LEFT + WIDTH - 136}" y="{y + 14}">us</text>'
             f'<rect class="qemu" x="{LEFT + WIDTH - 100}" y="{y + 5}" width="10" height="10"/>'
             f'<text x="{LEFT + WIDTH - 86}" y="{y + 14}">{rival}</text>']
    y += 28
    begin = y
    for line, us, qemu in bars:
        parts.append(f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(line.row.title)}</text>')
        for kind, value, at in (("us", us, y + 1), ("qemu", qemu, y + 2 + BAR)):
            if value:
                width = min(value, top) * scale
                parts.append(f'<rect class="{kind}" x="{LEFT}" y="{at}" width="{width:.1f}" height="{BAR}"/>')
        parts.append(f'<text x="{LEFT + min(us, top) * scale + 4:.1f}" y="{y + 10}">{us:.2f}</text>')
        y += STEP
    one = LEFT + scale
    parts.append(f'<line class="one" x1="{one:.1f}" y1="{begin - 2}" x2="{one:.1f}" y2="{y - 6}"/>')
    return parts, y + 20
