"""The token grid: which token stands where when streams lag behind one another. Runs on the engine thread.

Row k of the grid is a stream (text, own codes, user codes), a column is a step. A token of stream k that belongs to
frame n of the conversation stands in column n + delay_k (arXiv 2410.00037, section 3.4.4). Only the last
``max(delays) + 2`` columns are kept, in a ring, per slot.

What a step adds to the grid is its row ``[K]``: the text and own codes that it drew, which stand in the column after
it, and the user's codes that it heard. The rows of all steps tell the whole grid; those of the last steps, its end.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from model_runtime.checkpoint.config import LanguageModelConfig

UNGENERATED: Final = -2
"""Stands in a row of tokens where nothing has been generated."""
ZERO: Final = -1
"""A token whose embedding is zero."""
NOT_FORCED: Final = -3
"""Stands where a step may choose its token itself."""


@dataclass
class GridState:
    """What the slots have heard and said in the last columns."""

    cache: Tensor  # [B, K, max_delay + 2] int64
    offset: Tensor  # [B] int64: steps done


class TokenGrid:
    """The grid's procedure; its state is owned by whoever steps."""

    def __init__(self, config: LanguageModelConfig, device: torch.device) -> None:
        self.max_delay = max(config.delays)
        self.lag = max(1, self.max_delay)
        """Rows before a step that its column is made of."""
        self.columns = self.max_delay + 2
        self._dep_q = config.dep_q
        self._delays = torch.tensor(config.delays, device=device)  # [K]
        initial = [config.text_initial] + [config.audio_initial] * config.n_q
        self._initial = torch.tensor(initial, device=device)  # [K]

    def new_state(self, slots: int) -> GridState:
        """Fresh state for so many slots."""
        streams, device = len(self._delays), self._delays.device
        return GridState(
            cache=torch.zeros(slots, streams, self.columns, device=device, dtype=torch.long),
            offset=torch.zeros(slots, device=device, dtype=torch.long),
        )

    def hear(self, state: GridState, user: Tensor, mask: Tensor) -> None:
        """Enter the user's codes ``[B, n_q - dep_q]`` of the frame that just arrived, for the slots in ``mask [B]``."""
        first = 1 + self._dep_q
        column = (state.offset[:, None] + self._delays[first:]) % self.columns  # [B, K']
        self._write(state.cache[:, first:], column, user, mask)

    def inputs(self, state: GridState, mask: Tensor) -> Tensor:
        """The tokens ``[B, K]`` of the step to do: initial ones where a stream has not begun, and in masked slots."""
        column = (state.offset % self.columns)[:, None, None].expand(-1, len(self._delays), 1)
        tokens = state.cache.gather(2, column).squeeze(2)
        begun = (state.offset[:, None] > self._delays) & mask[:, None]
        return torch.where(begun, tokens, self._initial)

    def say(self, state: GridState, text: Tensor, own: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Enter what a step generated (``text [B]``, ``own [B, dep_q]``), end it, and return what is now complete.

        That is the tokens ``[B, K]`` of one frame, delays undone, and ``ready [B]``. After n steps it is the frame
        n - max_delay, user codes included; rows that are not ready (too early, or masked) hold ``UNGENERATED``. Without
        delays the user's part of that frame is yet to come and is ``UNGENERATED`` too.
        """
        state.offset.add_(mask)
        generated = torch.cat([text[:, None], own], dim=1)  # [B, 1 + dep_q]
        column = (state.offset % self.columns)[:, None].expand_as(generated)
        self._write(state.cache[:, : 1 + self._dep_q], column, generated, mask)
        ready = (state.offset > self.max_delay) & mask
        frame = (state.offset[:, None] - self.max_delay + self._delays) % self.columns  # [B, K]
        tokens = state.cache.gather(2, frame[..., None]).squeeze(2)
        if self.max_delay == 0:
            tokens[:, 1 + self._dep_q :] = UNGENERATED
        return torch.where(ready[:, None], tokens, UNGENERATED), ready

    def read_columns(self, rows: Tensor, first: int) -> Tensor:
        """The columns ``[T', K]`` that steps read, from the rows ``[T, K]`` of the steps from ``first`` on.

        From step 0 on there is a column for each row; later on the first ``lag`` rows are needed for the next columns.
        """
        own = 1 + self._dep_q
        lags = torch.cat([self._delays.new_ones(own), self._delays[own:]])  # [K]
        skipped = self.lag if first else 0
        padded = torch.cat([self._initial.expand(self.lag - skipped, -1), rows])  # [lag - skipped + T, K]
        steps = torch.arange(first + skipped, first + len(rows), device=rows.device)[:, None]  # [T', 1]
        columns = padded.gather(0, steps - first - skipped + self.lag - lags)
        return torch.where(steps > self._delays, columns, self._initial)

    def restore(self, state: GridState, slot: int, rows: Tensor, steps: int) -> None:
        """Put a slot where it is after so many steps, the last of which added ``rows [T, K]``.

        At least ``max_delay + 1`` of them are needed, or all there are.
        """
        own = 1 + self._dep_q
        cache = state.cache[slot]  # [K, columns]
        streams = torch.arange(len(self._delays), device=rows.device)
        after = torch.cat([self._delays.new_ones(own), self._delays[own:]])  # a row's tokens stand so much later
        for step, row in enumerate(rows[-self.max_delay - 1 :], steps - min(len(rows), self.max_delay + 1)):
            cache[streams, (step + after) % self.columns] = row
        state.offset[slot] = steps

    @staticmethod
    def _write(rows: Tensor, column: Tensor, tokens: Tensor, mask: Tensor) -> None:
        at = column[..., None]
        rows.scatter_(2, at, torch.where(mask[:, None, None], tokens[..., None], rows.gather(2, at)))
