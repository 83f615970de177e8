"""The subcommands of perception-rt."""
