#!/usr/bin/env python3
"""Checks the floors of the house: who may use whom, where SQL and HTTP may be, how long files are."""

import pathlib, re, sys

# What each module may use of the crate, beside itself.
MAY_USE = {
    "machine": set(),
    "store": {"machine"},
    "protocol": {"machine"},
    "outbound": {"machine"},
    "engine": {"machine", "store", "protocol", "outbound"},
    "api": {"machine", "store", "protocol", "outbound", "engine"},
    "dev": set(),
}
# What may be only in some places: a pattern, the places, and why.
ONLY_IN = [
    (r"\b(sqlx::query\w*|query_(as|scalar)\(|QueryBuilder|raw_sql)", ("store",), "SQL belongs into store/"),
    (r"\breqwest::", ("outbound", "engine", "cli"), "HTTP to strangers belongs into outbound/ and engine/"),
]
# What the pure floor may not know.
IMPURE = r"\b(tokio|sqlx|reqwest|axum|rand)::|std::(fs|net|env|process)\b|(SystemTime|Instant|Timestamp)::now\b|\basync fn\b"
LONGEST = 600

root = pathlib.Path(__file__).resolve().parent.parent
faults = []
for path in sorted([*root.glob("src/**/*.rs"), *root.glob("tests/**/*.rs")]):
    name, text = path.relative_to(root), path.read_text()
    lines = text.splitlines()
    if len(lines) > LONGEST:
        faults.append(f"{name}: {len(lines)} lines, more than {LONGEST}")
    if not text.startswith("//! "):
        faults.append(f"{name}: the first line does not say what the file is for (`//! …`)")
    if name.parts[0] != "src":
        continue
    module = name.parts[1].removesuffix(".rs")
    # Tests at the foot of a file may use what they need.
    code = text.split("#[cfg(test)]")[0]
    for number, line in enumerate(code.splitlines(), 1):
        line = line.split("//")[0]
        for used in re.findall(r"\bcrate::(\w+)", line):
            if module in MAY_USE and used not in MAY_USE[module] | {module} and used.islower():
                faults.append(f"{name}:{number}: {module} may not use {used}")
        for pattern, places, why in ONLY_IN:
            if module not in places and re.search(pattern, line):
                faults.append(f"{name}:{number}: {why}")
        if module == "machine" and re.search(IMPURE, line):
            faults.append(f"{name}:{number}: the machine knows no I/O, clock or chance")

print("\n".join(faults) or "The floors are in order.")
sys.exit(bool(faults))
