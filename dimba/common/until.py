"""Text that comes in parts, until one of several words appears in it. Standard library only."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Until:
    """Passes text on until the first of `words`; `found` is that word, `held` is the text that is not passed on."""

    words: Sequence[str]
    found: str = ""
    held: str = ""
    passed: str = field(default="", init=False)

    def feed(self, text: str) -> str:
        """The part of the text that can be passed on: none of it is the beginning of a word."""
        self.held += text
        if self.found:
            return ""
        places = [(place, word) for word in self.words if (place := self.held.find(word)) >= 0]
        if places:
            place, self.found = min(places)
        else:
            place = len(self.held) - self._beginning()
        return self._pass(place)

    def rest(self) -> str:
        """What is held back, once no more text comes; empty if a word was found."""
        return "" if self.found else self._pass(len(self.held))

    def _pass(self, place: int) -> str:
        ready, self.held = self.held[:place], self.held[place:]
        self.passed += ready
        return ready

    def _beginning(self) -> int:
        """The length of the longest end of the text that is the beginning of a word."""
        longest = min(len(self.held), max(map(len, self.words), default=1) - 1)
        ends = (self.held[len(self.held) - size :] for size in range(longest, 0, -1))
        return next((len(end) for end in ends if any(word.startswith(end) for word in self.words)), 0)
