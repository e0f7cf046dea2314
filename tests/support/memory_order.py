"""What machine code does for one program or block of a GPU to see what another one has written.

A release and an acquire at the scope of the whole GPU are, in machine code, instructions around the
access that carries them: a fence before it, and one after it that drops what the first-level cache
holds. One thread does that, so the others' accesses have to be on the right side of a barrier.

Instructions are read in the order in which they stand, no further than to where no path leads on: a
rule of thumb, which holds for what the compilers make today.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable

from albert_act_fast.kernels.launch_tables import dependent_launch

# What matters of an instruction; the first that matches. Predicated ones count as if they ran.
_NVIDIA = {
    "narrow": r"\S+\.STRONG\.(?!GPU|SYS)",
    "atomic": r"(ATOMG?|REDG?)\.",
    "publish": r"STG?\.\S*STRONG",
    "ask": r"LDG?\.\S*STRONG",
    "release": r"MEMBAR\.\S*(GPU|SYS)",
    "acquire": r"CCTL\.IVALL",
    "barrier": r"BAR\.SYNC",
    "store": r"STG?\.",
    "load": r"LDG?\.",
    "leaves": r"(EXIT|BRA)\b",
}
_AMD = {
    "atomic": r"(global|buffer|flat)_atomic",
    "release": r"buffer_wbl2 .*sc1",
    "acquire": r"buffer_inv .*sc1",
    "barrier": r"s_barrier",
    "store": r"(global|buffer|flat)_store",
    "load": r"(global|buffer|flat)_load",
    "leaves": r"s_(branch|endpgm)",
}
_NVIDIA_LINE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?P<predicate>@!?U?P\w+\s+)?(?P<what>[A-Z].*)")
_AMD_LINE = re.compile(r"^\s+(?P<predicate>(?!))?(?P<what>[a-z]\w+.*)", re.M)


def tokens(code: str, amd: bool = False) -> list[str]:
    """What of the instructions of one kernel matters here, in their order."""
    kinds, line = (_AMD, _AMD_LINE) if amd else (_NVIDIA, _NVIDIA_LINE)
    found = []
    for instruction in line.finditer(code):
        what = instruction["what"]
        kind = next((k for k, pattern in kinds.items() if re.match(pattern, what)), None)
        if kind == "leaves" and instruction["predicate"]:
            continue
        if kind is not None:
            found.append(kind)
    return found


def waits_first(code: str, target: str, loads_ahead: int = 0) -> bool:
    """Whether a kernel for a GPU that has dependent launches waits for the kernel before ahead of
    any access; on others it must not try to. loads_ahead: as many loads of 128 bits there must be
    before it, whose values all stand in shared memory by then."""
    ahead, *rest = re.split(r"\bACQBULK\b", code)
    if not dependent_launch(target):
        return not rest and not loads_ahead
    accesses = re.findall(r"\b(?:LDG|STG|LD|ST|RED|REDG|ATOM|ATOMG|LDGSTS|UTMALDG)\b\S*", ahead)
    wide = [access for access in accesses if re.match(r"LDG\..*\b128\b", access)]
    kept = re.findall(r"\bSTS\.128\b", ahead)
    return len(rest) == 1 and len(accesses) == len(wide) == len(kept) == loads_ahead


def _first(found: Iterable[str], of: str) -> str | None:
    return next((token for token in found if token in of.split()), None)


def unordered(found: list[str], relaxed: Container[str] = ()) -> list[str]:
    """Where other programs may not see what they should; `found`: of `tokens`. `relaxed`:
    kinds of access that tell others nothing but the one word they are to, and need no order."""
    problems = []
    accesses = "load store ask publish atomic leaves"
    for place, token in enumerate(found):
        before, after = found[:place][::-1], found[place + 1 :]
        if token == "narrow":
            problems.append("a scope narrower than the GPU")
        if token in relaxed:
            continue
        if token in ("atomic", "publish") and _first(before, "release " + accesses) != "release":
            problems.append(f"no fence before {token}")
        if token in ("atomic", "ask") and _first(after, "acquire barrier " + accesses) != "acquire":
            problems.append(f"no fence after {token}")
        if token == "release" and _first(before, "barrier store leaves") == "store":
            problems.append("no barrier between a store and the fence that is to cover it")
    return problems
