"""What sends messages: scripts, the command line and live agents' reports."""
