"""Names that changed: ``old.*=>new.*``, each star standing for the same text on both sides."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from ckptclamp.errors import UsageError
from ckptclamp.frozen import frozen


class Renames:
    """Several renames, of which the first that fits a name holds; `whose` names are renamed.

    Raises:
        UsageError: one cannot be understood.
    """

    def __init__(self, texts: Sequence[str], whose: str) -> None:
        self._renames = [_Rename.parse(text) for text in texts]
        self._whose = whose
        self._used: set[str] = set()

    def __call__(self, names: Iterable[str]) -> dict[str, str]:
        """The new name of each of `names`: by the first rename that fits, else itself.

        Raises:
            UsageError: a rename fits none of them, or two get one name.
        """
        result = self.where_they_fit(names)
        self.refuse_idle()
        return result

    def refuse_idle(self) -> None:
        """Refuse renames that have fitted nothing so far.

        Raises:
            UsageError: there is one.
        """
        for rename in self._renames:
            if rename.text not in self._used:
                raise UsageError(f"the rename {rename.text!r} fits no tensor of {self._whose}")

    def where_they_fit(self, names: Iterable[str]) -> dict[str, str]:
        """The new name of each of `names`, to some of which alone the renames may be about.

        Raises:
            UsageError: two get one name.
        """
        result = {name: name for name in names}
        for name in result:
            for rename in self._renames:
                other = rename(name)
                if other is not None:
                    result[name] = other
                    self._used.add(rename.text)
                    break
        twice = [name for name, count in Counter(result.values()).items() if count > 1]
        if twice:
            raise UsageError(f"the renames give several tensors the name {twice[0]!r}")
        return result


@frozen
class _Rename:
    """One ``old=>new``; each star is the shortest text that fits, from left to right."""

    text: str
    old: re.Pattern[str]
    new: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> _Rename:
        old, arrow, new = text.partition("=>")
        if not (arrow and old and new):
            raise UsageError(f"{text!r} is no rename", hint="write 'old.*=>new.*'")
        if old.count("*") != new.count("*"):
            raise UsageError(f"the rename {text!r} must have as many stars left as right")
        first, *rest = map(re.escape, old.split("*"))
        # Atomic groups never go back for another place, so that no name takes more than linear time.
        stars = [f"(?>(.*?){part})" for part in rest[:-1]] + [f"(.*){part}" for part in rest[-1:]]
        return cls(text, re.compile("".join([first, *stars]), re.DOTALL), tuple(new.split("*")))

    def __call__(self, name: str) -> str | None:
        """The new name, or ``None`` if this rename does not fit `name`."""
        found = self.old.fullmatch(name)
        if found is None:
            return None
        texts = (*found.groups(), "")
        return "".join(part + text for part, text in zip(self.new, texts, strict=True))
