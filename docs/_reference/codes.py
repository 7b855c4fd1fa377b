"""What the codes of reports and the numbers of the program mean: the catalogue as pages."""

from __future__ import annotations

from _reference.markdown import heading, table
from ckptclamp.reports.catalogue import Explained, Section, anchor, explained


def findings_page() -> str:
    """Findings that are no rule of the user's own, notices, and reasons."""
    notices, reasons = (explained(s).values() for s in (Section.NOTICES, Section.REASONS))
    return "\n".join(
        [
            heading(1, "Findings, notices and reasons"),
            "A finding is called by the rule that is violated: the `id` of a rule in the spec, or what"
            " the model declares (`dense.kernel_constraint`). What a rule's constraint asks for stands"
            " under [constraints](constraints.md). The codes below are the program's own.\n",
            heading(2, "Findings", "codes-of-findings"),
            *map(_entry, explained(Section.FINDINGS).values()),
            heading(2, "Failures", "codes-of-failures"),
            "What stands in place of a report where there is none. Every report that was asked for is"
            " written, and says this.\n",
            *map(_entry, explained(Section.FAILURES).values()),
            heading(2, "Notices", "codes-of-notices"),
            "What a pass or a fail alone would hide. A notice is a warning, and fails the gate under"
            " `--strict`, or it is a note, and informs only; the report says which.\n",
            table(["code", ""], ([f"[`{n.code}`](#{anchor(n.code)})", n.title] for n in notices)),
            *map(_entry, notices),
            "## Why something was not evaluated\n",
            "A result that was not evaluated has a sentence as its reason, and the code of its kind"
            " (`reason_code` in JSON, in SARIF the descriptor of a notification); the exit code is 3.\n",
            table(["code", ""], ([f"[`{r.code}`](#{anchor(r.code)})", r.title] for r in reasons)),
            *map(_reason, reasons),
        ]
    )


def exit_codes_page() -> str:
    """What the program returns."""
    codes = explained(Section.EXIT_CODES).values()
    return "\n".join(
        [
            heading(1, "Exit codes"),
            table(["code", "means"], ([f"[{c.code}](#exit-{c.code})", c.title] for c in codes)),
            "When several hold, 3 outranks 4 and 4 outranks 1; all are printed. Formats and verbosity"
            " never change the code. 130 is Ctrl-C, 141 a reader of the output that went away, 143"
            " a `SIGTERM`.\n",
            *(
                f"{heading(2, f'Exit {c.code}: {c.title}', f'exit-{c.code}')}\n{_body(c)}"
                for c in codes
            ),
        ]
    )


def _entry(entry: Explained) -> str:
    return f"{heading(3, f'`{entry.code}`', anchor(entry.code))}\n**{entry.title}.** {_body(entry)}"


def _reason(entry: Explained) -> str:
    said = "; ".join(f"“… {words} …”" for words in entry.says)
    head = heading(3, f"`{entry.code}`", anchor(entry.code))
    return f"{head}\n**{entry.title}.** Reports say: {said}\n\n{_body(entry)}"


def _body(entry: Explained) -> str:
    return f"{entry.cause}\n\n*What to do:* {entry.cure}\n".replace("](../reference/", "](")
