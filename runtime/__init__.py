"""What every process shares: settings, bus, journal, delivery, leases, telemetry, servers."""
