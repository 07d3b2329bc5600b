"""``python tests/mutation``: how many planted mistakes the gradient tester finds."""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]          # the package of this checkout

from mutation.score import main  # noqa: E402

raise SystemExit(main())
