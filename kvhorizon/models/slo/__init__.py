"""What delay weighs: classes of service, tenants' shares, promised first tokens."""
