"""How the page looks: one accent, light or dark as the reader's system is, figures of one width, and room on a phone.

Its fonts are those that Streamlit brings along: nothing is fetched from elsewhere.
"""

from collections.abc import Mapping
from typing import Final

from tars.dashboard.palette import AMBER, BLUE, GREEN, GREY, RED

_LIGHT: Final = {
    "primaryColor": BLUE,
    "backgroundColor": "#ffffff",
    "secondaryBackgroundColor": "#f4f6f9",
    "textColor": "#1d2939",
    "borderColor": "#dfe3ea",
    "dataframeBorderColor": "#e7eaef",
    "dataframeHeaderBackgroundColor": "#f4f6f9",
}
_DARK: Final = {
    "primaryColor": "#5b8ff0",
    "backgroundColor": "#12161d",
    "secondaryBackgroundColor": "#1b212b",
    "textColor": "#e4e8ee",
    "borderColor": "#303947",
    "dataframeBorderColor": "#262e3a",
    "dataframeHeaderBackgroundColor": "#1b212b",
}
_BOTH: Final = {
    "baseFontSize": "14",
    "baseRadius": "6px",
    "metricValueFontSize": "1.25rem",
    "headingFontSizes": '["1.7rem", "1.5rem", "1.3rem", "1.15rem", "1rem", "0.9rem"]',
    "headingFontWeights": "[650, 650, 600, 600, 600, 600]",
    "paddingTop": "1rem",
    "paddingBottom": "2rem",
    "chartCategoricalColors": f'["{BLUE}", "{AMBER}", "{GREEN}", "{RED}", "{GREY}"]',
}
OPTIONS: Final[Mapping[str, str]] = {
    **{f"theme.{name}": value for name, value in _BOTH.items()},
    **{f"theme.light.{name}": value for name, value in _LIGHT.items()},
    **{f"theme.dark.{name}": value for name, value in _DARK.items()},
}
"""For `streamlit run`."""

STYLE: Final = """<style>
.stApp { font-variant-numeric: tabular-nums; }
[data-testid="stMetricLabel"] { opacity: .7; }
@media (max-width: 640px) {
  [data-testid="stMainBlockContainer"] { padding-left: .8rem; padding-right: .8rem; }
  [data-testid="stColumn"]:has(
    > [data-testid="stVerticalBlock"] > [data-testid="stElementContainer"] > [data-testid="stMetric"]
  ) {
    flex: 1 1 calc(50% - 1rem); min-width: calc(50% - 1rem);
  }
  [data-testid="stCaptionContainer"] p { text-align: left !important; }
}
</style>"""
"""What no option sets: figures of equal width, and on a phone two figures side by side."""
