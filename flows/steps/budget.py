"""What asking an LLM costs, and that it never costs more than it may. Knows no network.

Invariant: what was paid and what is under way, at the most that it can cost, stays within the budget; so a budget is
kept with any number of calls at once, and a call that would not fit is not made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lake.answer_cache import Spent

_MESSAGE_TOKENS = 8  # role and turn markers


@dataclass(frozen=True, slots=True)
class Prices:
    """Per million tokens, in any one currency; 0 where a model costs nothing."""

    prompt: float = 0.0
    completion: float = 0.0

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Of one call, in that currency."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


FREE = Prices()


def most_tokens(messages: Sequence[Mapping[str, str]]) -> int:
    """More tokens than a prompt has: one a UTF-8 byte is the worst that any tokenizer does, one for two bytes is above
    what those of today do with Korean (0.3 to 0.5 a byte) and English (0.25).
    """
    return sum(len(message["content"].encode()) // 2 + _MESSAGE_TOKENS for message in messages)


class Budget:
    """Counts what is paid and what is under way. For one event loop."""

    def __init__(self, prices: Prices, max_tokens: int = 0, max_cost: float = 0.0, spent: Spent | None = None) -> None:
        """A limit of 0 is none; `spent`: by an earlier attempt at the same run."""
        self.prices = prices
        self.spent = spent or Spent()
        self._max_tokens, self._max_cost = max_tokens, max_cost
        self._reserved_tokens, self._reserved_cost, self._open = 0, 0.0, 0
        self._changed = asyncio.Event()

    @property
    def tokens(self) -> int:
        """Paid, with failed calls at their most."""
        return self.spent.tokens + self.spent.failed_tokens

    @property
    def cost(self) -> float:
        """Paid, with failed calls at their most."""
        return self.spent.cost + self.spent.failed_cost

    async def reserve(self, prompt_tokens: int, completion_tokens: int) -> bool:
        """Whether such a call may be made; waits while calls under way could still turn out cheaper."""
        tokens, cost = prompt_tokens + completion_tokens, self.prices.cost(prompt_tokens, completion_tokens)
        while not self._fits(tokens, cost):
            if not self._open:
                return False
            self._changed.clear()
            await self._changed.wait()
        self._open += 1
        self._reserved_tokens += tokens
        self._reserved_cost += cost
        return True

    def settle(self, prompt_tokens: int, completion_tokens: int, paid: Spent) -> None:
        """The reserved call is over and cost `paid`."""
        self._open -= 1
        self._reserved_tokens -= prompt_tokens + completion_tokens
        self._reserved_cost -= self.prices.cost(prompt_tokens, completion_tokens)
        before = self.spent
        self.spent = Spent(
            before.tokens + paid.tokens,
            before.cost + paid.cost,
            before.failed_tokens + paid.failed_tokens,
            before.failed_cost + paid.failed_cost,
        )
        self._changed.set()

    def shown(self) -> str:
        """For progress lines: tokens and money so far, and of how much."""
        of_tokens = f" of {self._max_tokens:,}" if self._max_tokens else ""
        of_cost = f" of {self._max_cost:,.2f}" if self._max_cost else ""
        return f"{self.tokens:,}{of_tokens} tokens, cost {self.cost:,.4f}{of_cost}"

    def _fits(self, tokens: int, cost: float) -> bool:
        within_tokens = not self._max_tokens or self.tokens + self._reserved_tokens + tokens <= self._max_tokens
        # a billionth: sums of floats must not refuse the last call that fits
        within_cost = not self._max_cost or self.cost + self._reserved_cost + cost <= self._max_cost * (1 + 1e-9)
        return within_tokens and within_cost
