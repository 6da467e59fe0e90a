"""The command line: tables for people, JSON for programs, exit code 0 only on success."""
