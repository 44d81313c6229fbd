"""`python -m chatglm`."""

import sys

from chatglm.cli import main

sys.exit(main())
