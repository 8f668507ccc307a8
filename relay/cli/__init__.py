"""The command line. Each command is a thin call into the composition root or the admin API."""
