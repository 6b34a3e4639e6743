"""Names as a history keeps them: numbered, and spelled as labels are."""

from __future__ import annotations

from genmeter.labels import label_text

__all__ = ["Names", "spelled"]


class Names(dict[str | None, int]):
    """Numbers for names, given out as they are asked for; 0 is the absent one."""

    __slots__ = ("names",)

    def __init__(self) -> None:
        super().__init__({None: 0})
        self.names: list[str] = [""]

    def __missing__(self, name: str | None) -> int:
        number = self[name] = len(self.names)
        self.names.append(name or "")
        return number


def spelled(name: str) -> str:
    """Spell an old name as the labels in it are kept: cut to their length, without controls."""
    for prefix in ("model_usage:", "finish_reason:", "evaluation_score_"):
        if name.startswith(prefix):
            return prefix + (label_text(name.removeprefix(prefix)) or "")
    return label_text(name) or ""
