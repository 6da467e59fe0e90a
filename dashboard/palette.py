"""The colours of the page and its pictures, one meaning each."""

from typing import Final

BLUE: Final = "#2f6fde"
GREY: Final = "#98a2b3"
GREEN: Final = "#1a8f4c"
RED: Final = "#d1383d"
AMBER: Final = "#c27803"
FAINT: Final = "#98a2b355"
"""GREY, for what lies below."""
