"""Letters for pictures without a drawing library: the common 5 x 7 dots of LCD modules."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Width and height of a letter with its margin, dots.
LETTER_WIDTH, LETTER_HEIGHT = 6, 8

_LETTERS = "%,-./0123456789:abcdefghijklmnopqrstuvwxyz"
# Five columns of each letter, the lowest bit on top; everything else is drawn as a space.
_COLUMNS = bytes.fromhex(
    """
    2313086462 0050300000 0808080808 0060600000 2010080402
    3E5149453E 00427F4000 4261514946 2141454B31 1814127F10
    2745454539 3C4A494930 0171090503 3649494936 064949291E
    0036360000
    2054545478 7F48444438 3844444420 384444487F 3854545418 087E090102 0C5252523E 7F08040478
    00447D4000 2040443D00 7F10284400 00417F4000 7C04180478 7C08040478 3844444438 7C14141408
    081414187C 7C08040408 4854545420 043F444020 3C4040207C 1C2040201C 3C4030403C 4428102844
    0C5050503C 4464544C44
    """
)


def text_mask(text: str, scale: int = 1) -> NDArray[np.bool_]:
    """True where a line of text is inked, shape ``[8 * scale, 6 * len(text) * scale]``."""
    mask = np.zeros((LETTER_HEIGHT, LETTER_WIDTH * len(text)), np.bool_)
    for i, letter in enumerate(text):
        start = 5 * _LETTERS.index(letter) if letter in _LETTERS else len(_COLUMNS)
        for x, column in enumerate(_COLUMNS[start : start + 5]):
            for y in range(LETTER_HEIGHT):
                mask[y, LETTER_WIDTH * i + x] = column >> y & 1
    return mask.repeat(scale, axis=0).repeat(scale, axis=1)


def draw_text(
    image: NDArray[np.uint8],
    x: int,
    y: int,
    text: str,
    colour: tuple[int, int, int],
    scale: int = 1,
) -> int:
    """Writes a line into ``image`` (``[height, width, 3]``, changed); returns the x behind it."""
    mask = text_mask(text, scale)[: image.shape[0] - y, : image.shape[1] - x]
    image[y : y + mask.shape[0], x : x + mask.shape[1]][mask] = colour
    return x + LETTER_WIDTH * scale * len(text)
