"""Programs that no package brings along. `python deploy/check.py --install` gets them, and .ci/run calls that.

A test that wants one is skipped where it is missing, with a reason that pytest shows: they come from the net, which a
test must not need.
"""

import shutil
import sys
from pathlib import Path
from typing import Final

import pytest

PLACES: Final = f"{Path(sys.executable).parent}:{Path(__file__).parents[1] / '.tools' / 'bin'}:/usr/local/bin:/usr/bin"
HELM: Final = shutil.which("helm", path=PLACES)
PROMTOOL: Final = shutil.which("promtool", path=PLACES)
INSTALL: Final = "is missing: python deploy/check.py --install"
needs_helm = pytest.mark.skipif(HELM is None, reason=f"helm {INSTALL}")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason=f"promtool {INSTALL}")
