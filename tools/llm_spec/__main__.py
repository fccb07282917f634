"""`python -m llm_spec SUBCOMMAND …`: what `llm-spec` is on the command line."""

import sys

from llm_spec.cli.command_line import main

sys.exit(main())
