"""What Keyway stands on: settings, broker, database, vault, provisioning."""
